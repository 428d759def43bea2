"""Which tasks are short: by what they take on average, and by how many are long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kernel.worker.engine.pace import Pace


def noted(runtime: Callable[[int], float], count: int = 600) -> Pace:
    pace = Pace()
    for number in range(count):
        pace.note("t", runtime(number))
    return pace


@pytest.mark.parametrize(
    ("runtime", "is_short"),
    [
        (lambda number: 0.00002, True),
        (lambda number: 0.004 if number % 40 == 39 else 0.00002, True),  # interrupted now and then by others
        (lambda number: 0.02 if number % 100 == 50 else 0.00002, False),
        (lambda number: 0.005 if number % 2 else 0.00002, False),
        (lambda number: 0.0011, False),
    ],
    ids=["always", "interrupted", "some long", "every other slow", "all over a millisecond"],
)
def test_who_is_short(runtime: Callable[[int], float], is_short: bool) -> None:
    assert noted(runtime).is_short("t") is is_short


def test_who_was_long_is_short_again_after_a_while() -> None:
    pace = noted(lambda number: 0.02)
    assert not pace.is_short("t")
    for _ in range(2000):
        pace.note("t", 0.00002)
    assert pace.is_short("t")
    assert not pace.is_short("another")
