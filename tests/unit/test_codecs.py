from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel import errors
from kernel.codecs import EMPTY_EMBED, Codecs
from kernel.message import Message


class Json:
    interface = (1, 0)
    name = "json"
    content_type = "application/json"
    content_encoding = "utf-8"
    safe = True

    def __init__(self) -> None:
        self.loaded = 0

    def dumps(self, value: Any) -> bytes:
        try:
            return json.dumps(value).encode()
        except TypeError as exc:
            raise errors.EncodeError(str(exc)) from exc

    def loads(self, data: bytes) -> Any:
        self.loaded += 1
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise errors.DecodeError(str(exc)) from exc


class Danger(Json):
    name = "pickle"
    content_type = "application/x-python-serialize"
    safe = False


class Zlib:
    interface = (1, 0)
    name = "zlib"
    content_type = "application/x-gzip"

    def __init__(self) -> None:
        self.inflated = 0

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        self.inflated += 1
        press = zlib.decompressobj()
        try:
            found = press.decompress(data, limit + 1)
        except zlib.error as exc:
            raise errors.DecodeError(str(exc)) from exc
        if len(found) > limit:
            raise errors.PayloadTooLarge(f"over {limit} bytes")
        return found


class Shelf:
    """Codecs by name, and how often each was asked for."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Any] = {
            ("serializer", "json"): Json(),
            ("serializer", "pickle"): Danger(),
            ("compressor", "zlib"): Zlib(),
        }
        self.asked: list[tuple[str, str]] = []

    def find(self, kind: str, name: str) -> Any:
        self.asked.append((kind, name))
        try:
            return self.items[kind, name]
        except KeyError:
            raise errors.DriverNotFound(f"no {kind} {name}") from None

    def names(self, kind: str) -> list[str]:
        return [name for found, name in self.items if found == kind]

    def codecs(self, **options: Any) -> Codecs:
        return Codecs(find=self.find, names=self.names, accept=options.pop("accept", ("json",)), **options)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def message(body: bytes, *, content_type: str = "application/json", **headers: Any) -> Message:
    return Message({"id": "1", "task": "t", **headers}, body, content_type=content_type)


def test_a_body_comes_back_as_it_was(shelf: Shelf) -> None:
    codecs = shelf.codecs()
    body, content_type, encoding, added = codecs.encode_body((1, "a"), {"x": None})
    assert (content_type, encoding, dict(added)) == ("application/json", "utf-8", {})
    assert codecs.decode_body(message(body)) == ([1, "a"], {"x": None}, dict(EMPTY_EMBED))


def test_what_is_not_accepted_is_refused_before_a_byte_is_decoded_or_inflated(shelf: Shelf) -> None:
    codecs = shelf.codecs()
    bomb = zlib.compress(b"x" * 100_000)
    with pytest.raises(errors.ContentDisallowed, match=r"x-python-serialize.*accept_content allows application/json"):
        codecs.decode_body(message(bomb, content_type=Danger.content_type, compression="application/x-gzip"))
    assert shelf.items["serializer", "pickle"].loaded == 0
    assert shelf.items["compressor", "zlib"].inflated == 0


@pytest.mark.parametrize(
    "content_type", ["application/data", "application/text", "text/plain", "", "json", "APPLICATION/JSON"]
)
def test_no_content_type_is_trusted_by_itself(shelf: Shelf, content_type: str) -> None:
    with pytest.raises(errors.ContentDisallowed):
        shelf.codecs().decode_body(message(b"[[], {}, null]", content_type=content_type))


@pytest.mark.parametrize("entry", ["pickle", "application/x-python-serialize"])
def test_accepted_by_name_or_by_content_type(shelf: Shelf, entry: str) -> None:
    codecs = shelf.codecs(accept=("json", entry))
    assert codecs.decode_body(message(b"[[1], {}, null]", content_type=Danger.content_type))[0] == [1]
    assert codecs.unsafe() == ("pickle",)
    assert shelf.codecs().unsafe() == ()


def test_compression_is_told_in_a_header_and_undone(shelf: Shelf) -> None:
    codecs = shelf.codecs()
    body, content_type, _, added = codecs.encode_body(("a" * 1000,), {}, compression="zlib")
    assert content_type == "application/json"
    assert added == {"compression": "application/x-gzip"}
    assert len(body) < 200
    assert codecs.decode_body(message(body, **added))[0] == ["a" * 1000]


def test_inflating_stops_at_the_limit(shelf: Shelf) -> None:
    codecs = shelf.codecs(limit=2000)
    bomb = zlib.compress(b"[" + b" " * 50_000 + b"]")
    with pytest.raises(errors.PayloadTooLarge):
        codecs.decode_body(message(bomb, compression="application/x-gzip"))
    assert shelf.items["serializer", "json"].loaded == 0


def test_a_body_that_nobody_would_inflate_is_refused_to_its_sender(shelf: Shelf) -> None:
    with pytest.raises(errors.EncodeError, match="max_body"):
        shelf.codecs(limit=2000).encode_body(("a" * 3000,), {}, compression="zlib")


@pytest.mark.parametrize("compression", ["application/x-nothing", "rot13", "", 5, ["x"], {"a": 1}])
def test_an_unknown_compression_is_an_error_of_the_message(shelf: Shelf, compression: Any) -> None:
    with pytest.raises(errors.DecodeError):
        shelf.codecs().decode_body(message(b"[[], {}, null]", compression=compression))


def test_names_that_strangers_choose_are_not_remembered(shelf: Shelf) -> None:
    codecs = shelf.codecs()
    for number in range(50):
        with pytest.raises(errors.DecodeError):
            codecs.decode_body(message(b"x", compression=f"made/up-{number}"))
    assert len(codecs._inflaters or ()) == 1
    assert len(codecs._compressors) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"5",
        b"null",
        b'"abc"',
        b"[]",
        b"[[], {}]",
        b"[[], {}, null, 1]",
        b"[5, {}, null]",
        b'["ab", {}, null]',
        b"[[], [], null]",
        b"[[], {}, 5]",
        b'[[], {}, {"callbacks": 5}]',
        b'[[], {}, {"callbacks": ["x"]}]',
        b'[[], {}, {"errbacks": {"task": "x"}}]',
        b'[[], {}, {"chain": [1]}]',
        b'[[], {}, {"chord": []}]',
    ],
)
def test_a_body_of_another_shape_is_no_task(shelf: Shelf, body: bytes) -> None:
    with pytest.raises(errors.InvalidTaskError):
        shelf.codecs().decode_body(message(body))


def test_keys_of_kwargs_are_texts(shelf: Shelf) -> None:
    shelf.items["serializer", "json"].loads = lambda data: [[], {5: 1}, None]
    with pytest.raises(errors.InvalidTaskError, match="key of kwargs"):
        shelf.codecs().decode_body(message(b""))


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_body_or_one_of_three_errors(data: bytes) -> None:
    codecs = Shelf().codecs()
    for headers in ({}, {"compression": "application/x-gzip"}):
        try:
            args, kwargs, embed = codecs.decode_body(message(data, **headers))
        except (errors.DecodeError, errors.InvalidTaskError):
            continue
        assert isinstance(args, list)
        assert isinstance(kwargs, dict)
        assert isinstance(embed, dict)


def test_results_have_a_list_of_their_own(shelf: Shelf) -> None:
    codecs = shelf.codecs(accept=("json",), accept_results=("pickle",))
    data, content_type, encoding = codecs.encode_result({"a": 1})
    with pytest.raises(errors.ContentDisallowed, match="result_accept_content allows application/x-python-serialize"):
        codecs.decode_result(data, content_type, encoding)
    assert codecs.decode_result(b"5", Danger.content_type) == 5
    assert shelf.codecs().decode_result(data, content_type, encoding) == {"a": 1}


def test_an_accepted_serializer_that_is_not_there_is_told_of(shelf: Shelf) -> None:
    with pytest.raises(errors.DriverNotFound, match="yaml"):
        shelf.codecs(accept=("json", "yaml")).decode_body(message(b"[[], {}, null]"))


def test_the_encoding_that_a_peer_names_chooses_no_codec(shelf: Shelf) -> None:
    found = message(b"[[], {}, null]")
    found.content_encoding = "zip"
    assert shelf.codecs().decode_body(found)[0] == []
