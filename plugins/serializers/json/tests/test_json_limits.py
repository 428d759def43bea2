from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from kernel_serializer_json import JsonSerializer, JsonType

from kernel import errors


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]


class Order:
    def __json__(self) -> dict[str, Any]:
        return {"id": 1, "created": {1, 2}}


class Broken:
    def __json__(self) -> dict[str, Any]:
        raise LookupError("no such column")


@pytest.fixture
def digits() -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(4300)
    yield
    sys.set_int_max_str_digits(before)


ENVELOPES = [
    b'{"__type__": "os.system", "__value__": "ls"}',
    b'{"__type__": ["uuid"], "__value__": "x"}',
    b'{"__type__": null, "__value__": null}',
    b'{"__type__": "uuid", "__value__": "not an object"}',
    b'{"__type__": "uuid", "__value__": {"hex": "zz"}}',
    b'{"__type__": "uuid", "__value__": {}}',
    b'{"__type__": "decimal", "__value__": "12x"}',
    b'{"__type__": "decimal", "__value__": [0, [1], 2]}',
    b'{"__type__": "datetime", "__value__": 5}',
    b'{"__type__": "datetime", "__value__": "2026-13-01"}',
    b'{"__type__": "date", "__value__": "tomorrow"}',
    b'{"__type__": "time", "__value__": "25:00"}',
    b'{"__type__": "timedelta", "__value__": {"days": 1e400, "seconds": 0, "microseconds": 0}}',
    b'{"__type__": "timedelta", "__value__": {"days": 9999999999, "seconds": 0, "microseconds": 0}}',
    b'{"__type__": "base64", "__value__": "*"}',
    b'{"__type__": "bytes", "__value__": "\\ud800"}',
    b'{"__type__": "bytes", "__value__": null}',
]


@pytest.mark.parametrize("data", ENVELOPES)
def test_refuses_envelopes_it_does_not_know_or_cannot_open(data: bytes) -> None:
    with pytest.raises(errors.DecodeError):
        JsonSerializer().loads(data)


def test_an_unknown_type_is_named_beside_the_known_ones() -> None:
    with pytest.raises(errors.DecodeError, match=r"unknown __type__ 'set'; known: base64, bytes, date"):
        JsonSerializer().loads(b'[{"__type__": "set", "__value__": []}]')


def test_an_object_with_more_keys_is_no_envelope() -> None:
    data = b'{"__type__": "x", "__value__": 1, "more": 2}'
    assert JsonSerializer().loads(data) == {"__type__": "x", "__value__": 1, "more": 2}
    assert JsonSerializer().loads(b'{"__type__": 1}') == {"__type__": 1}


def test_the_last_of_two_equal_keys_counts() -> None:
    assert JsonSerializer().loads(b'{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(errors.DecodeError, match="unknown __type__ 'x'"):
        JsonSerializer().loads(b'{"__type__": "decimal", "__value__": "1", "__type__": "x"}')


def test_numbers_of_too_many_digits(digits: None) -> None:
    with pytest.raises(errors.DecodeError, match="4300 digits"):
        JsonSerializer().loads(b"[" + b"7" * 1_000_000 + b"]")
    with pytest.raises(errors.EncodeError, match=r"args\[0\].*4300 digits"):
        JsonSerializer().dumps([[1 << 20_000], {}, None])


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000])
def test_too_deep(data: bytes) -> None:
    with pytest.raises(errors.DecodeError, match="nested too deeply"):
        JsonSerializer().loads(data)


@pytest.mark.parametrize("data", [b"\xff", b"\xef\xbb\xbf1", '"é"'.encode("utf-16"), b"{} {}", b"nul", b"[1,]", b"'a'"])
def test_not_json(data: bytes) -> None:
    with pytest.raises(errors.DecodeError, match="not valid JSON"):
        JsonSerializer().loads(data)


PLACES = [
    ([[{"order": Order()}], {}, None], r"args\[0\]\['order'\]\.created is of type set"),
    ([[], {"when": [1, {(1, 2): 3}]}, None], r"kwargs\['when'\]\[1\]\.key\(\(1, 2\)\) is of type tuple"),
    ([[], {}, {"chain": [{"task": 1j}]}], r"embed\['chain'\]\[0\]\['task'\] is of type complex"),
    ({"a": (1, object())}, r"value\['a'\]\[1\] is of type object"),
    ([1, Broken()], r"value\[1\] is of type .*Broken and cannot be JSON: no such column"),
    ([[1], {}, {"other": 1j}], r"value\[2\]\['other'\]"),
]


@pytest.mark.parametrize(("value", "text"), PLACES)
def test_names_the_place(value: Any, text: str) -> None:
    with pytest.raises(errors.EncodeError, match=text):
        JsonSerializer().dumps(value)


def test_a_value_that_contains_itself() -> None:
    value: list[Any] = [[], {}, None]
    value[0].append(value)
    with pytest.raises(errors.EncodeError, match="Circular reference"):
        JsonSerializer().dumps(value)


def test_a_soft_time_limit_is_not_taken_for_bad_data() -> None:
    class Slow:
        def __json__(self) -> None:
            raise errors.SoftTimeLimitExceeded

    with pytest.raises(errors.SoftTimeLimitExceeded):
        JsonSerializer().dumps([Slow()])


def test_types_of_ones_own() -> None:
    codec = JsonSerializer(types=[JsonType(Money, "money", lambda money: money.cents, Money)])
    data = codec.dumps([Money(5)])
    assert data == b'[{"__type__": "money", "__value__": 5}]'
    assert codec.loads(data) == [Money(5)]
    with pytest.raises(errors.EncodeError, match=r"JsonType\(\.\.\.\)"):
        JsonSerializer().dumps([Money(5)])
    with pytest.raises(errors.DecodeError, match="'money'"):
        JsonSerializer().loads(data)


def test_lazy_texts_of_django_are_written_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("django.utils.functional")

    class Promise:
        def __str__(self) -> str:
            return "hello"

    module.Promise = Promise  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django.utils.functional", module)
    assert JsonSerializer().dumps([Promise()]) == b'["hello"]'
