"""The kit for serializers. A third party's test module is four lines:

from kernel.testing.conformance.serializer import SerializerConformance
from my_serializer import MySerializer

class TestMySerializer(SerializerConformance):
    serializer = MySerializer
"""

from __future__ import annotations

import contextlib
import random
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from kernel import errors
from kernel.interfaces import serializer as interface
from kernel.testing.payloads import canaries, nests

PLAIN: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64,
    10**60,
    0.1,
    -1e300,
    1e-7,
    float("inf"),
    "",
    "word",
    "é 😀 \u2028 \ufeff \x85",
    "\x00\x01\t\r\n\x7f",
    "2020-01-01",
    "yes",
    "null",
    "~",
    "1:30",
    "<<",
    "=",
    [],
    {},
    [[1, [2, [3, []]]], {"a": {"b": [None]}}],
    {"<<": 1, "": 2, "a b": 3, "é": 4},
    [[1, 2], {"key": "value"}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
)
"""What every serializer must carry."""

RICH: Final[tuple[Any, ...]] = (
    b"",
    b"text",
    b"\xff\x00\xfe",
    datetime(2026, 11, 21, 1, 57, 37, 23282),  # noqa: DTZ001 - naive ones are values too
    datetime(2026, 11, 21, 1, 57, 37, tzinfo=UTC),
    datetime(2026, 11, 21, 1, 57, tzinfo=timezone(-timedelta(hours=5, minutes=30))),
    datetime.min,  # noqa: DTZ901
    datetime.max,  # noqa: DTZ901
    date(2026, 11, 21),
    date.min,
    time(1, 2),
    time(1, 2, 3, 4, tzinfo=UTC),
    timedelta(0),
    timedelta(microseconds=1),
    timedelta(days=-1, seconds=1),
    timedelta.max,
    timedelta.min,
    Decimal("1.50"),
    Decimal("-0"),
    Decimal("1e-400"),
    Decimal("Infinity"),
    uuid.UUID("12345678123456781234567812345678"),
)
"""What Python programs pass around beyond that. A serializer that carries less says so with `rich`."""


class _Table(dict[str, Any]):
    pass


class _Row(list[Any]):
    pass


class Unknown:
    """Nothing can carry this: it holds a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class SerializerConformance:
    """Set `serializer` to the driver class or a factory; `rich` to the values beyond plain ones that it
    carries; `names_places` to False if its errors cannot say where in the value they are."""

    serializer: ClassVar[Callable[[], Any]]
    rich: ClassVar[tuple[Any, ...]] = RICH
    names_places: ClassVar[bool] = True

    @pytest.fixture
    def codec(self) -> interface.Serializer:
        made: interface.Serializer = type(self).serializer()
        return made

    # what it declares ---------------------------------------------------------------------------------------

    def test_declares_what_it_is(self, codec: interface.Serializer) -> None:
        assert isinstance(codec, interface.Serializer)
        assert codec.interface[0] == interface.INTERFACE[0] and codec.interface[1] <= interface.INTERFACE[1]
        assert isinstance(codec.safe, bool)
        assert codec.name and "/" not in codec.name
        assert codec.content_type.count("/") == 1 and codec.content_type.isascii()
        assert codec.content_encoding

    # there and back -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("value", PLAIN, ids=ascii)
    def test_carries_plain_values(self, codec: interface.Serializer, value: Any) -> None:
        _check_same(_there_and_back(codec, value), value)

    def test_carries_rich_values(self, codec: interface.Serializer) -> None:
        for value in self.rich:
            _check_same(_there_and_back(codec, value), value)
        assert _there_and_back(codec, {"deep": [*self.rich]}) == {"deep": [*self.rich]}

    def test_takes_subclasses_where_it_says_so(self, codec: interface.Serializer) -> None:
        if not getattr(codec, "takes_subclasses", False):
            pytest.skip("this serializer does not claim takes_subclasses")
        value = _Table(a=_Row([1, _Table(b=_Row())]))
        assert codec.loads(codec.dumps(value)) == {"a": [1, {"b": []}]}

    def test_carries_many_at_once(self, codec: interface.Serializer) -> None:
        def work(number: int) -> bool:
            value = [[number, "text"], {"number": number}, None]
            return all(_there_and_back(codec, value) == value for _ in range(50))

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(16)))

    def test_carries_megabytes(self, codec: interface.Serializer) -> None:
        value = [["x" * 2**20], {"numbers": list(range(20_000))}, None]
        assert _there_and_back(codec, value) == value

    # what cannot be encoded ---------------------------------------------------------------------------------

    def test_names_what_it_cannot_encode(self, codec: interface.Serializer) -> None:
        cases = {
            "args[0]['order']": [[{"order": Unknown()}], {}, None],
            "kwargs['a'][1]": [[], {"a": [1, Unknown()]}, {"chain": None}],
            "value['result']": {"result": Unknown()},
        }
        for place, value in cases.items():
            with pytest.raises(errors.EncodeError) as caught:
                codec.dumps(value)
            text = str(caught.value)
            assert "Unknown" in text or "lock" in text, "the error must name the type"
            if self.names_places:
                assert place in text, "the error must name the place"

    def test_survives_values_without_end(self, codec: interface.Serializer) -> None:
        endless: list[Any] = []
        endless.append(endless)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        for value in (endless, deep):
            try:
                data = codec.dumps(value)
            except errors.EncodeError:
                continue
            assert isinstance(codec.loads(data), list)

    # what cannot be decoded ---------------------------------------------------------------------------------

    def test_refuses_nothing_at_all(self, codec: interface.Serializer) -> None:
        with pytest.raises(errors.DecodeError):
            codec.loads(b"")

    def test_refuses_garbage(self, codec: interface.Serializer) -> None:
        """Damaged data, random bytes, nests and number bombs: a value or `DecodeError`, nothing else.

        Bytes at random run whatever code they happen to spell where decoding is unsafe, so that there only
        what is cut short is tried.
        """
        tried = list(_cut(codec))
        if codec.safe:
            tried += [*_damaged(codec), *_random(), *nests(100_000)]
        refused = 0
        for data in tried:
            try:
                codec.loads(data)
            except errors.DecodeError:
                refused += 1
        assert refused > 0

    def test_runs_nobodys_code(self, codec: interface.Serializer, tmp_path: Path) -> None:
        canary = tmp_path / "canary"
        if not codec.safe:
            pytest.skip("declares itself unsafe")
        for data in canaries(str(canary)):
            with contextlib.suppress(errors.DecodeError):
                codec.loads(data)
            assert not canary.exists(), f"decoding ran code of the sender's: {data!r:.200}"


def _there_and_back(codec: interface.Serializer, value: Any) -> Any:
    data = codec.dumps(value)
    assert type(data) is bytes
    return codec.loads(data)


def _check_same(got: Any, value: Any) -> None:
    assert got == value and type(got) is type(value)
    if isinstance(value, datetime):
        assert got.utcoffset() == value.utcoffset()


def _body(codec: interface.Serializer) -> bytes:
    return codec.dumps([[1, "two", 3.5], {"key": [None, True]}, {"callbacks": None, "chain": None}])


def _cut(codec: interface.Serializer) -> Iterator[bytes]:
    body = _body(codec)
    return (body[:end] for end in range(1, len(body)))


def _damaged(codec: interface.Serializer) -> Iterator[bytes]:
    choice = random.Random(1)
    body = _body(codec)
    for _ in range(1500):
        data = bytearray(body)
        for _ in range(choice.randint(1, 4)):
            at = choice.randrange(len(data))
            if choice.random() < 0.6:
                data[at] = choice.randrange(256)
            elif choice.random() < 0.5:
                del data[at]
            else:
                data[at:at] = data[: choice.randint(1, 20)]
            if not data:
                break
        yield bytes(data)


def _random() -> Iterable[bytes]:
    choice = random.Random(2)
    return (choice.randbytes(choice.randint(1, 60)) for _ in range(1500))
