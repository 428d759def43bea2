"""Envelopes read by what they have in common with others: always as they are read one by one."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_broker_redis import envelope
from kernel_broker_redis import reader as module
from kernel_broker_redis.reader import Reader

from kernel.message import Message, Publication
from kernel.shape import ShapedMessage

HEADERS: dict[str, Any] = {
    "lang": "py",
    "task": "t.add",
    "id": "a1",
    "root_id": "a1",
    "parent_id": None,
    "argsrepr": "(1,)",
    "kwargsrepr": "{}",
    "retries": 0,
    "timelimit": [None, None],
    "origin": "gen1@here",
    "stamps": {},
}
PROPERTIES: dict[str, Any] = {
    "correlation_id": "a1",
    "reply_to": "r1",
    "delivery_mode": 2,
    "delivery_info": {"exchange": "", "routing_key": "celery"},
    "priority": 0,
    "body_encoding": "base64",
    "delivery_tag": "d1",
}

texts = st.text(max_size=12) | st.sampled_from(['"', "\\", "é", "\ud800", "\x00", ', "properties": {', '"id":"x"', ""])
scalars = st.none() | st.booleans() | st.integers(-3, 1 << 40) | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2))
names = st.sampled_from([*HEADERS, "group", "group_index", "shadow", "eta", "expires", "x", "delivery_tag", "headers"])


def enveloped(headers: Any, properties: Any, body: bytes = b"[[], {}, {}]", **encoding: Any) -> bytes:
    document = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(document, **encoding).encode("utf-8", "surrogatepass")


def own(headers: dict[str, Any], properties: dict[str, Any], body: bytes = b"[[], {}, {}]") -> bytes:
    message = Message(headers, body, content_type="application/json", properties=properties)
    return envelope.Writer().publication(Publication(message, "celery"))


def assert_alike(found: Message, right: Message) -> None:
    assert json.dumps(found.headers) == json.dumps(right.headers)
    assert json.dumps(found.properties) == json.dumps(right.properties)
    assert (found.body, found.content_type, found.content_encoding) == (
        right.body,
        right.content_type,
        right.content_encoding,
    )
    assert json.loads(found.raw_headers) == right.headers
    assert found.priority == right.priority


def check(raws: Sequence[bytes]) -> list[Message]:
    """What a reader makes of these one after the other, each compared with the envelope read alone."""
    reader = Reader()
    found = []
    for raw in raws:
        right = envelope.decode(raw)
        message = reader.decode(raw)
        try:
            _ = right.headers
        except Exception as exc:
            with pytest.raises(type(exc)):
                _ = message.headers
        else:
            assert_alike(message, right)
        found.append(message)
    return found


@pytest.mark.parametrize("make", [own, enveloped])
def test_the_second_of_a_kind_is_read_by_the_first(make: Any) -> None:
    second = {**HEADERS, "id": "b2", "root_id": "c3", "argsrepr": "('it''s',)", "task": "t.mul", "origin": "gen2@there"}
    properties = {**PROPERTIES, "correlation_id": "b2", "reply_to": "r2"}
    own_properties = {name: properties[name] for name in ("correlation_id", "reply_to", "delivery_mode", "priority")}
    first_properties = {name: PROPERTIES[name] for name in own_properties}
    if make is own:
        found = check([own(HEADERS, first_properties), own(second, own_properties, b"[[1], {}, {}]")])
    else:
        found = check([enveloped(HEADERS, PROPERTIES), enveloped(second, {**properties, "delivery_tag": "d2"}, b"xyz")])
    assert not isinstance(found[0], ShapedMessage)
    assert isinstance(found[1], ShapedMessage)


def test_numbers_and_escapes_are_read() -> None:
    headers = {**HEADERS, "group": "g", "group_index": 0}
    other = {**headers, "group_index": 17, "argsrepr": '("é", \\ \n)', "kwargsrepr": "{'a': '\ud83d\ude00'}"}
    found = check([enveloped(headers, PROPERTIES), enveloped(other, PROPERTIES)])
    assert isinstance(found[1], ShapedMessage)
    assert found[1].headers["group_index"] == 17


def test_each_message_has_lists_of_its_own() -> None:
    headers = {**HEADERS, "stamps": {"a": ["b"]}}
    _, second, third = check([enveloped(headers, PROPERTIES)] * 3)
    assert isinstance(third, ShapedMessage)
    second.headers["stamps"]["a"].append("c")
    second.headers["timelimit"].append(1)
    second.properties["priority"] = 9
    assert third.headers["stamps"] == {"a": ["b"]}
    assert third.headers["timelimit"] == [None, None]
    assert third.properties["priority"] == 0


def test_it_can_be_put_back() -> None:
    """A server that has forgotten what it held is given it again."""
    second = {**HEADERS, "id": "b2", "argsrepr": '("é",)'}
    message = check([enveloped(HEADERS, PROPERTIES), enveloped(second, PROPERTIES, b"[[2], {}, {}]")])[1]
    assert isinstance(message, ShapedMessage)
    assert_alike(envelope.decode(envelope.encode(message, "celery", priority=message.priority)), message)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"task": ""},
        {"id": None},
        {"id": 5},
        {"argsrepr": None},
        {"retries": 1},
        {"timelimit": [1, None]},
        {"x": {"id": "v"}},
    ],
)
def test_of_another_kind(changes: dict[str, Any]) -> None:
    raws = [enveloped(HEADERS, PROPERTIES), enveloped({**HEADERS, **changes}, PROPERTIES)]
    assert not isinstance(check(raws)[1], ShapedMessage)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"id": "a1"', '"id": "a1", "id": "a2"'),
        ('"id": "a1"', '"x": {"id": "a0"}, "id": "a1"'),
        ('"id": "a1"', '"x": {"id": "v1000"}, "id": "v1000"'),
        ('"id": "a1"', '"x\\"id": "a0", "id": "a1"'),
        ('"argsrepr": "(1,)"', '"argsrepr": "\\u00"'),
        ('"argsrepr": "(1,)"', '"argsrepr": "\x01"'),
        ('"argsrepr": "(1,)"', '"argsrepr": "\\q"'),
        ('"headers": {', '"headers": {}, "headers": {'),
        ('"correlation_id": "a1"', '"correlation_id": "a1", "correlation_id": 5'),
        ('"delivery_tag": "d1"', '"delivery_tag": "d1", "delivery_info": {}'),
        ('"delivery_tag": "d1"', '"delivery_tag": "d1", "kernel_sent": 012.5'),
        ('"body_encoding": "base64"', '"body_encoding": "none"'),
        ('{"body": "', '{"body": "****'),
        ('{"body": "', '{"body": "\\n'),
        ('{"body": "', '{"body": "="'),
        ("}}", "}} "),
        ("}}", "}"),
    ],
)
def test_odd_envelopes(old: str, new: str) -> None:
    plain = enveloped(HEADERS, PROPERTIES).decode()
    odd = plain.replace(old, new, 1) if old != "}}" else plain.removesuffix(old) + new
    assert odd != plain
    others = [odd.replace("a1", "b2").replace("a0", "b0").replace("v1000", "w") for _ in range(2)]
    check([text.encode() for text in (plain, odd, *others, plain, odd)])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(names, values, max_size=4),
            st.dictionaries(names, values, max_size=2),
            st.permutations(list(HEADERS)),
            st.booleans(),
            st.binary(max_size=8),
        ),
        min_size=2,
        max_size=4,
    ),
    st.booleans(),
)
def test_anything(drawn: list[Any], escaped: bool) -> None:
    raws = []
    for headers, properties, order, same_order, body in drawn:
        base = HEADERS if same_order else {name: HEADERS[name] for name in order}
        raws += [enveloped({**base, **headers}, {**PROPERTIES, **properties}, body, ensure_ascii=escaped)] * 2
        raws.append(enveloped({**base, "id": "zz"}, PROPERTIES, body))
    check(raws)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 700), st.binary(max_size=3)), max_size=6))
def test_damaged(damages: list[tuple[int, bytes]]) -> None:
    raw = own(HEADERS, {"correlation_id": "a1"})
    damaged = [raw[:at] + piece + raw[at + len(piece) :] for at, piece in damages]
    check([raw, raw, *damaged, raw, *damaged])


def test_what_is_always_another_kind_is_not_learnt_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(module.Kind):
        def __init__(self, text: str) -> None:
            made.append(text)
            super().__init__(text)

    monkeypatch.setattr(module, "Kind", Counted)
    reader = Reader()
    for number in range(200):
        reader.decode(enveloped({**HEADERS, f"x{number}": 1}, PROPERTIES))
    assert len(made) <= 9
