"""Messages of which only the values are kept: for whoever reads them they are messages like any other."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from kernel import errors
from kernel.app import Kernel
from kernel.message import Message
from kernel.request import _KINDS, Request
from kernel.shape import NUMBERS, TEXTS, Shape, ShapedMessage
from kernel.worker.assignment import Assignment
from kernel.worker.processes import frames

HEADERS: dict[str, Any] = {
    "lang": "py",
    "task": "t.add",
    "id": "a1",
    "root_id": "r1",
    "parent_id": None,
    "group": "g1",
    "group_index": 3,
    "argsrepr": "(1,)",
    "ignore_result": True,
    "timelimit": [30, None],
    "stamped_headers": ["x"],
    "stamps": {"x": ["y"]},
    "own": {"deep": [1]},
}
PROPERTIES: dict[str, Any] = {"correlation_id": "a1", "reply_to": "q1", "priority": 3, "extra": [[]]}
VARYING = ("task", "id", "root_id", "group", "argsrepr", "group_index")


def shaped(headers: dict[str, Any] = HEADERS, properties: dict[str, Any] = PROPERTIES) -> ShapedMessage:
    names = [name for name in VARYING if name in headers]
    shape = Shape(headers, names, properties, ["correlation_id"])
    values = (*(headers[name] for name in names), properties["correlation_id"])
    return ShapedMessage(shape, values, b"[[1], {}, {}]", "application/json", "utf-8")


def plain(headers: dict[str, Any] = HEADERS, properties: dict[str, Any] = PROPERTIES) -> Message:
    return Message(
        json.dumps(headers), b"[[1], {}, {}]", content_type="application/json", properties=json.dumps(properties)
    )


def test_it_is_the_message() -> None:
    assert shaped() == plain()
    assert [*shaped().headers] == [*HEADERS]
    assert (shaped().id, shaped().task, shaped().priority) == ("a1", "t.add", 3)
    assert shaped().header("ignore_result") is True
    assert shaped().header("task") == "t.add"
    assert shaped().header("nothing") is None
    assert json.loads(shaped().raw_headers) == HEADERS
    assert json.loads(shaped().raw_properties) == PROPERTIES
    assert Message.unpack(shaped().pack()) == plain()
    assert shaped().replace_headers(retries=1).headers == {**HEADERS, "retries": 1}
    assert shaped().filled is None
    assert shaped().correlation_id == "a1"


def test_nothing_that_can_be_changed_is_shared() -> None:
    first = shaped()
    second = ShapedMessage(first.shape, first.values, b"", "application/json", "utf-8")
    first.headers["stamps"]["x"].append("z")
    first.headers["own"]["deep"].append(2)
    first.properties["extra"][0].append(1)
    first.properties["new"] = 1
    assert second.headers == HEADERS
    assert second.properties == PROPERTIES


def test_what_differs_is_of_the_kind_that_a_request_wants() -> None:
    assert all(_KINDS[name] is str for name in TEXTS if name not in ("id", "task"))
    assert all(_KINDS[name] is int for name in NUMBERS)


def fields_of(message: Message) -> dict[str, Any]:
    request = Request.from_message(message, app=cast("Kernel", None), args=(), kwargs={}, embed={}, queue="q")
    return {name: value for name, value in vars(request).items() if name != "message"}


@pytest.mark.parametrize("changes", [{}, {"timelimit": None}, {"kernel_replay": 2, "redelivered": True}])
def test_its_request(changes: dict[str, Any]) -> None:
    headers = {**HEADERS, **changes}
    message = shaped(headers)
    found = fields_of(message)
    assert found == fields_of(plain(headers))
    found["stamps"]["x"].append("z")
    assert fields_of(message) == fields_of(plain(headers))


@pytest.mark.parametrize("changes", [{"retries": -1}, {"stamps": 5}, {"timelimit": [1]}, {"lang": 1}])
def test_what_no_request_takes(changes: dict[str, Any]) -> None:
    headers = {**HEADERS, **changes}
    message = shaped(headers)
    for _ in range(2):
        with pytest.raises(errors.InvalidTaskError) as found:
            fields_of(message)
        with pytest.raises(errors.InvalidTaskError) as right:
            fields_of(plain(headers))
        assert str(found.value) == str(right.value)


def test_on_its_way_to_a_child() -> None:
    message = shaped()
    other = ShapedMessage(message.shape, ("u", "b2", "r", "g", "()", 4, "b2"), b"x", "text/plain", "utf-8")
    handed = [Assignment(number, each, "q", f"t{number}") for number, each in enumerate((message, other, plain()))]
    frame = frames.pack_batch(7, [frames.pack_assignment(each.seq, each) for each in handed])
    epoch, found = frames.unpack_batch(frame)
    assert epoch == 7
    assert [each.message for each in found] == [message, other, plain()]
    assert [each.token for each in found] == ["t0", "t1", "t2"]
    assert isinstance(found[0].message, ShapedMessage)
    assert found[0].message.shape is cast("ShapedMessage", found[1].message).shape
    assert frames.numbers(frame) == [0, 1, 2]


def test_a_batch_that_is_not_of_plain_types() -> None:
    class Text(str):
        pass

    handed = Assignment(1, shaped(), Text("q"), "t")
    _, (found,) = frames.unpack_batch(frames.pack_batch(0, [frames.pack_assignment(1, handed)]))
    assert found.message == plain()
