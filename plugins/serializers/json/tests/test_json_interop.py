"""What kombu writes we read, what we write kombu reads, and both write the same bytes."""

from __future__ import annotations

import enum
import math
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from kernel_serializer_json import JsonSerializer

kombu_json = pytest.importorskip("kombu.utils.json")


class Color(enum.IntEnum):
    RED = 1


class Plain:
    def __repr__(self) -> str:
        # The name of a test is made of this, and must be the same in every process that collects it.
        return "Plain()"

    def __json__(self) -> dict[str, Any]:
        return {"created": date(2026, 1, 2), "id": 7}


class Moment(datetime):
    pass


VALUES: list[Any] = [
    [[2, 2], {"key": "é\u2028😀"}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
    ((1, 2.5, -0.0, 1e22), {"a": True, "b": None}, None),
    {1: "a", 2.5: "b", None: "c", False: "d"},
    [2**70, 0.1, 1e-9, "\ud800", "\x00"],
    [Color.RED],
    b"text",
    b"\xff",
    b"",
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-5))),
    Moment(2026, 1, 1, tzinfo=UTC),
    date(2026, 1, 1),
    time(1, 2),
    time(1, 2, 3, 4, tzinfo=UTC),
    Decimal("1.5"),
    Decimal("NaN"),
    uuid.UUID(int=5),
    Plain(),
    {"deep": [{"deeper": [Decimal("1.10"), b"\xff\xfe", date(1, 1, 1)]}]},
    math.inf,
    -math.inf,
    math.nan,
]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_writes_the_same_bytes(value: Any) -> None:
    assert JsonSerializer().dumps(value) == kombu_json.dumps(value).encode()


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_each_reads_what_the_other_wrote(value: Any) -> None:
    ours, theirs = JsonSerializer(), kombu_json
    assert repr(ours.loads(theirs.dumps(value).encode())) == repr(theirs.loads(theirs.dumps(value)))
    assert repr(theirs.loads(ours.dumps(value))) == repr(theirs.loads(theirs.dumps(value)))


def test_a_peer_can_learn_timedelta() -> None:
    """kombu has none; what our README tells its users to register must read and write what we do."""
    value = timedelta(days=-1, seconds=5, microseconds=7)
    data = JsonSerializer().dumps(value)
    with pytest.raises(ValueError, match="Unsupported type"):
        kombu_json.loads(data)
    assert JsonSerializer().loads(data) == value
    assert data == (b'{"__type__": "timedelta", "__value__": {"days": -1, "seconds": 5, "microseconds": 7}}')


def test_a_date_written_as_a_point_in_time_is_read() -> None:
    assert JsonSerializer().loads(b'{"__type__": "date", "__value__": "2026-01-02T00:00:00"}') == date(2026, 1, 2)
