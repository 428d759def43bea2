"""The quick way of members of groups and chords into messages: the same message as the long way's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel import errors, group
from kernel.app import Kernel
from kernel.batch import Batch
from kernel.call import Call
from kernel.hooks import hookimpl
from kernel.message import Publication
from kernel.request import Request, current_request

PLACE = {"task_id": "t", "group_id": "g", "group_index": 3}
CHORD = {"task": "merge", "args": [], "kwargs": {}, "options": {"task_id": "b"}, "chord_size": 2}


def add(x: Any, y: Any = 0) -> Any:
    return x


@pytest.fixture
def app() -> Iterator[Kernel]:
    made = Kernel("tests", broker="memory://", backend="memory://")
    made.task(name="add")(add)
    made.task(name="limited", time_limit=9, ignore_result=True, queue="other", priority=3)(add)
    made.task(name="compressed", compression="zlib")(add)
    for codec in ("pickle", "msgpack", "yaml"):
        made.task(name=codec, serializer=codec)(add)
    with made:
        yield made


def said(publication: Publication) -> list[Any]:
    message = publication.message
    where = [getattr(publication, name) for name in Publication.__slots__ if name != "message"]
    kind = [message.body, message.content_type, message.content_encoding, message.correlation_id, message.id]
    return [message.headers, message.properties, *kind, *where]


def both(app: Kernel, call: Call) -> tuple[list[Any], list[Any]]:
    return said(Batch(app.publisher).prepare(call)), said(app.publisher.prepare(call))


@pytest.mark.parametrize("name", ["add", "limited", "compressed", "pickle", "msgpack", "yaml", "unknown"])
@pytest.mark.parametrize("chord", [None, CHORD])
def test_both_ways_make_the_same_message(app: Kernel, name: str, chord: Any) -> None:
    options = {**PLACE, "reply_to": app.oid, "chord": chord}
    quick, long = both(app, Call(name, (1, "é\n"), {"y": [1, {"z": None}]}, options))
    assert quick == long


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group_id": "g"},
        {"group_index": 2**31 - 1},
        {"group_id": 'a "quoted" \\ ü \ud800 id'},
        {"root_id": "r", "parent_id": "p"},
        {"reply_to": "somebody else"},
        {"countdown": 10, "priority": 5},
        {"chord": {}},
        {"chord": {**CHORD, "kwargs": {"text": 'embed", "chord": null}]'}}},
        {"link": [CHORD], "chain": [CHORD]},
        {"headers": {"mine": 1}, "stamped_headers": ["mine"], "mine": "stamp"},
    ],
)
def test_so_with_any_options(app: Kernel, options: Mapping[str, Any]) -> None:
    quick, long = both(app, Call("add", (1,), {}, {**PLACE, **options}))
    # A moment of its own for each: all else must be the same.
    for found in (quick, long):
        if options.get("countdown"):
            del found[0]["eta"], found[-7:]
    assert quick == long


@settings(max_examples=60)
@given(
    args=st.lists(st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=2), max_size=3),
    kwargs=st.dictionaries(st.text(), st.none() | st.text(), max_size=2),
    ids=st.tuples(st.text(min_size=1), st.text()),
)
def test_any_arguments_and_ids_make_the_same_message(args: list[Any], kwargs: dict[str, Any], ids: Any) -> None:
    with Kernel("tests", broker="memory://") as app:
        for chord in (None, {**CHORD, "args": args, "kwargs": kwargs}):
            options = {"task_id": ids[0], "group_id": ids[1], "group_index": 1, "chord": chord}
            quick, long = both(app, Call("add", args, kwargs, options))
            assert quick == long


@pytest.mark.parametrize("index", [-1, 2**31, 1.0, True])
def test_an_index_that_is_none_is_refused_either_way(app: Kernel, index: Any) -> None:
    with pytest.raises(TypeError, match="group_index"):
        Batch(app.publisher).prepare(Call("add", (1,), {}, {**PLACE, "group_index": index}))


def test_members_have_the_calling_task_as_their_parent(app: Kernel) -> None:
    token = current_request.set(Request(app=app, task="add", id="me", root_id="first", called_directly=False))
    try:
        quick, long = both(app, Call("add", (1,), {}, PLACE))
    finally:
        current_request.reset(token)
    assert quick == long
    assert (quick[0]["root_id"], quick[0]["parent_id"]) == ("first", "me")


def test_each_chord_of_a_batch_has_its_own_body(app: Kernel) -> None:
    batch = Batch(app.publisher)
    chords = [CHORD, {**CHORD, "chord_size": 5}, CHORD]
    found = [batch.prepare(Call("add", (1,), {}, {**PLACE, "chord": chord})) for chord in chords]
    sizes = [app.codecs.decode_body(item.message)[2]["chord"]["chord_size"] for item in found]
    assert sizes == [2, 5, 2]


def test_a_chord_that_cannot_be_written_is_told_as_ever(app: Kernel) -> None:
    call = Call("add", (1,), {}, {**PLACE, "chord": {**CHORD, "kwargs": {"bad": object()}}})
    with pytest.raises(errors.EncodeError) as quick:
        Batch(app.publisher).prepare(call)
    with pytest.raises(errors.EncodeError) as long:
        app.publisher.prepare(call)
    assert str(quick.value) == str(long.value)


class Odd:
    """Writes JSON whose parts look otherwise where they stand alone."""

    name, content_type, content_encoding, safe, takes_subclasses = "odd", "application/json", "utf-8", True, True

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value, indent=1).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


def test_json_that_is_not_made_of_its_parts_is_written_whole() -> None:
    class Finder:
        @hookimpl
        def kernel_find_codec(self, kind: str, name: str) -> Any:
            return Odd() if name == "odd" else None

    with Kernel("tests", broker="memory://", backend="memory://", plugins=[Finder()]) as app:
        app.task(name="add", serializer="odd")(add)
        quick, long = both(app, Call("add", (1,), {}, {**PLACE, "chord": CHORD}))
        assert quick == long


def test_plugins_edit_members() -> None:
    sent: list[Publication] = []

    class Editor:
        @hookimpl
        def kernel_publish_start(self, publication: Publication) -> None:
            publication.message = publication.message.replace_headers(seen=True)

        @hookimpl
        def kernel_publish_end(self, publication: Publication, error: BaseException | None) -> None:
            sent.append(publication)

    with Kernel("tests", broker="memory://", backend="memory://", plugins=[Editor()]) as app:
        task = app.task(name="add")(add)
        group([task.s(number) for number in range(3)]).apply_async()
    assert [item.message.headers["seen"] for item in sent] == [True] * 3
    assert [item.message.headers["group_index"] for item in sent] == [0, 1, 2]
