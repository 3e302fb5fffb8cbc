"""The versions of Qdrant that are accepted."""

import pytest

from worker.store.collection import is_supported


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        ("1.16.0", True),
        ("1.19.1", True),
        ("v1.20.0", True),
        ("2.0.0", True),
        ("1.15.9", False),
        ("1.9.2", False),
        ("0.11.0", False),
        ("dev", True),
    ],
)
def test_a_qdrant_without_conditional_updates_is_refused(version: str, supported: bool) -> None:
    assert is_supported(version) is supported
