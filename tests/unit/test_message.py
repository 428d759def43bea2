"""Messages pass through unread, and what is no message says so."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import InvalidTaskError
from kernel.message import Message, Publication, pack_parts, unpack_parts

JSON = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20), max_size=5
)


@given(headers=JSON, properties=JSON, body=st.binary(max_size=100))
def test_a_frame_brings_back_what_was_packed(
    headers: dict[str, object], properties: dict[str, object], body: bytes
) -> None:
    message = Message(headers, body, content_type="application/json", properties=properties)
    back = Message.unpack(message.pack())
    assert back == message
    assert (back.headers, back.properties, back.body) == (headers, properties, body)


@pytest.mark.parametrize("given_as", [bytes, str])
def test_text_is_parsed_at_first_use_and_passed_on_as_it_came(given_as: type) -> None:
    text = ' {"id": "x",  "task": "t"}'
    raw = text if given_as is str else text.encode()
    message = Message(raw, b"", content_type="c", properties='{"priority": 7,  "a": 1}')
    assert message.raw_headers == text.encode()
    assert message.raw_properties == b'{"priority": 7,  "a": 1}'
    assert (message.id, message.task, message.priority) == ("x", "t", 7)
    assert message.raw_headers == text.encode()


def test_changed_properties_are_what_is_packed() -> None:
    message = Message({"id": "x"}, b"", content_type="c", properties='{"priority": 7}')
    message.properties["priority"] = 9
    assert json.loads(message.raw_properties) == {"priority": 9}
    assert Message.unpack(message.pack()).priority == 9


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'{"a": 1} x', b"\xff", b"{" * 100_000, '"\ud800"', b"\x00{"]
)
def test_headers_that_are_no_object_are_refused(text: bytes | str) -> None:
    with pytest.raises(InvalidTaskError):
        Message(text, b"", content_type="c").headers  # noqa: B018 - the access is the test


@pytest.mark.parametrize("text", ["{", "[]", "7", b"\xff"])
def test_properties_that_are_no_object_stand_for_none(text: bytes | str) -> None:
    assert Message({}, b"", content_type="c", properties=text).properties == {}


@pytest.mark.parametrize("value", [None, 7, "", ["x"]])
def test_an_id_is_a_text(value: object) -> None:
    with pytest.raises(InvalidTaskError, match="'id'"):
        Message({"id": value}, b"", content_type="c").id  # noqa: B018 - the access is the test


def test_other_headers_make_another_message_with_the_same_body() -> None:
    message = Message({"id": "x"}, b"body", content_type="c")
    other = message.replace_headers(id="y")
    assert (message.id, other.id, other.body) == ("x", "y", b"body")


def test_a_publication_goes_to_its_queue_by_default() -> None:
    publication = Publication(Message({}, b"", content_type="c"), "q")
    assert (publication.queue, publication.routing_key, publication.due) == ("q", "q", None)


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_parts_come_apart_as_they_were(parts: list[bytes]) -> None:
    assert unpack_parts(pack_parts(parts)) == parts


@given(st.binary(max_size=60))
def test_damaged_frames_are_refused(noise: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert pack_parts(unpack_parts(noise)) == noise
    with contextlib.suppress(InvalidTaskError, UnicodeDecodeError):
        assert Message.unpack(noise).body is not None
