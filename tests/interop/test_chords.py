"""Chords on Redis whose makers, members and bodies are of both systems."""

from __future__ import annotations

from typing import Any

import pytest

from kernel import chain, chord, group
from tests.interop.conftest import Fleet
from tests.interop.parties import PATIENCE

pytestmark = pytest.mark.slow

SIDES = ("celery", "kernel")


def task(name: str, *args: Any, queue: str) -> dict[str, Any]:
    return {"task": f"shop.{name}", "args": args, "queue": queue}


def ours(pair: Fleet, described: Any) -> Any:
    app = pair.ours.app
    if "chain" in described:
        return chain(*(ours(pair, each) for each in described["chain"]))
    if "group" in described:
        return group(*(ours(pair, each) for each in described["group"]))
    return pair.ours.signature(app, described)


def made(pair: Fleet, maker: str, header: list[Any], body: Any) -> str:
    """The id of the body of a chord that `maker` made and sent."""
    if maker == "celery":
        return str(pair.theirs.ask("chord", header, body))
    result = chord([ours(pair, each) for each in header])(ours(pair, body))
    return str(result.id)


@pytest.mark.parametrize("maker", SIDES)
@pytest.mark.parametrize("queues", [("celery", "kernel"), ("celery",), ("kernel",)], ids="-".join)
@pytest.mark.parametrize("end", SIDES)
def test_members_and_bodies_on_both_sides(pair: Fleet, maker: str, queues: tuple[str, ...], end: str) -> None:
    """Whoever completes it, the body gets one value for each member, in order."""
    header = [task("add", n, n, queue=queues[n % len(queues)]) for n in range(12)]
    body = made(pair, maker, header, task("echo", queue=end))
    found = pair.ours.get(body)
    assert found == {"side": end, "args": [[2 * n for n in range(12)]], "kwargs": {}}
    assert pair.theirs.get(body) == found


@pytest.mark.parametrize("queue", SIDES)
@pytest.mark.parametrize("maker", SIDES)
def test_a_nested_header_keeps_its_shape(pair: Fleet, maker: str, queue: str) -> None:
    inner = {"group": [task("add", n, queue=queue) for n in (1, 2)]}
    header = [{"chain": [task("add", 1, 1, queue=queue), inner]}, task("add", 5, 5, queue=queue)]
    assert pair.ours.get(made(pair, maker, header, task("echo", queue=queue)))["args"] == [[[3, 4], 10]]


@pytest.mark.parametrize("maker", SIDES)
@pytest.mark.parametrize("where", SIDES)
def test_a_member_that_fails_on_either_side(pair: Fleet, maker: str, where: str) -> None:
    header = [task("fail", "value", queue=where), *(task("add", n, n, queue=side) for n, side in enumerate(SIDES))]
    body = made(pair, maker, header, task("echo", queue="celery"))
    for party in (pair.ours, pair.theirs):
        error = party.error(body, PATIENCE)
        assert error[1] == "ChordError"
        assert "Dependency" in error[3]
        assert "no such thing" in error[3]


def test_the_end_of_a_chain_is_a_chord_of_the_other_side(pair: Fleet) -> None:
    """A message of ours that holds a chord is continued by Celery's worker."""
    made = ours(pair, task("add", 1, 1, queue="celery")) | group(
        ours(pair, task("add", n, queue=side)) for n, side in enumerate(SIDES)
    )
    result = (made | ours(pair, task("echo", queue="celery"))).delay()
    assert result.get(timeout=PATIENCE)["args"] == [[2, 3]]
