"""How many examples a property is tried with: few each time, and many in the slow tests."""

import pytest


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    """Run a test with ``examples``, to be given to Hypothesis: a few, and as a slow test many."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])
