"""Subclasses of what MessagePack knows are written as what they hold."""

from __future__ import annotations

import enum
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
from kernel_serializer_msgpack import MsgpackSerializer


class OtherLength(dict[str, Any]):
    """As the signature of a group, whose length is the number of its members."""

    def __len__(self) -> int:
        return 7


class Level(enum.IntEnum):
    HIGH = 3


class Color(enum.StrEnum):
    RED = "red"


class Listed(list[int]):
    pass


class Large(int):
    pass


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (OtherLength(a=1, b=OtherLength(c=[2])), {"a": 1, "b": {"c": [2]}}),
        (OrderedDict(a=1), {"a": 1}),
        (Level.HIGH, 3),
        (Color.RED, "red"),
        (Point(1, (2, 3)), [1, [2, 3]]),
        (Listed([1, 2]), [1, 2]),
        (Large(1 << 80), 1 << 80),
        ({Color.RED: True}, {"red": True}),
    ],
)
def test_a_subclass(value: Any, expected: Any) -> None:
    codec = MsgpackSerializer()
    found = codec.loads(codec.dumps(([value], {"k": value})))
    assert found == [[expected], {"k": expected}]
