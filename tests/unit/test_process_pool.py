"""Processes of a pool that wait for their turn."""

import pytest

from tests.waiting import SECONDS
from worker.process_pool.spawn import PoolContext


def test_a_process_whose_pool_ends_before_its_turn_ends_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    context = PoolContext(2)
    context.Process(target=print)  # the first waits for nothing
    ended = context.Event()
    waiting = context.Process(target=print, args=(ended,))
    waiting.start()
    del context, ended  # what ends a pool's process closes the pipe, and unlinks what it has made
    waiting.join(SECONDS)
    assert waiting.exitcode == 0
    assert capfd.readouterr() == ("", "")
