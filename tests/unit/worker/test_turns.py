"""Keys take turns."""

from __future__ import annotations

from kernel.worker.claims.turns import Turns


def test_a_long_line_does_not_hold_up_a_short_one() -> None:
    turns: Turns[str] = Turns()
    for number in range(5):
        turns.extend("long", [f"l{number}"])
    turns.extend("short", ["s0"])
    assert turns.take(3) == ["l0", "s0", "l1"]
    assert len(turns) == 3
    assert turns.take(10) == ["l2", "l3", "l4"]
    assert turns.take(10) == []
    assert len(turns) == 0


def test_what_is_taken_is_gone_and_the_order_of_a_key_is_kept() -> None:
    turns: Turns[int] = Turns()
    for number in range(100):
        turns.extend(str(number % 3), [number])
    taken = [item for _ in range(20) for item in turns.take(7)]
    assert sorted(taken) == list(range(100))
    for key in range(3):
        assert [item for item in taken if item % 3 == key] == list(range(key, 100, 3))
