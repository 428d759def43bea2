from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
from kernel_serializer_pickle import PickleSerializer

from kernel import errors


class Order:
    def __init__(self, created: Any) -> None:
        self.created = created


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_carries_objects_and_protocol_of_peers() -> None:
    data = PickleSerializer().dumps(Order({1, 2}))
    assert data[:2] == b"\x80\x04", "protocol 4, as kombu writes"
    assert PickleSerializer().loads(data).created == {1, 2}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert PickleSerializer().loads(pickle.dumps((1, "a"), protocol=protocol)) == (1, "a")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (
            [[{"order": Order([threading.Lock()])}], {}, None],
            r"args\[0\]\['order'\]\.created\[0\] is of type _thread.lock",
        ),
        ([[], {"it": Slotted()}, None], r"kwargs\['it'\]\.lock"),
        ([[lambda: 1], {}, None], r"args\[0\] is of type function"),
    ],
)
def test_names_the_place(value: Any, place: str) -> None:
    with pytest.raises(errors.EncodeError, match=place):
        PickleSerializer().dumps(value)


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x04", b"\x80\x09N.", b"cnowhere\nnothing\n.", b"(lp0\n", b"N"])
def test_refuses_what_is_no_pickle(data: bytes) -> None:
    with pytest.raises(errors.DecodeError):
        PickleSerializer().loads(data)


def test_refuses_what_goes_on() -> None:
    with pytest.raises(errors.DecodeError, match="3 bytes follow"):
        PickleSerializer().loads(pickle.dumps(1) + b"xyz")
