"""Bodies that are not written until somebody asks for them say what they would have said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kernel import Kernel
from kernel.call import Call
from kernel.deferred import DeferredMessage
from kernel.message import Message


@pytest.fixture
def app() -> Kernel:
    app = Kernel("deferred", broker="memory://", backend="memory://")

    @app.task(name="step")
    def step(x: int, *, by: int = 1) -> int:
        return x + by

    return app


def following(app: Kernel, count: int = 4, **options: Any) -> tuple[Call, Message]:
    """A call with what is left of a chain of so many tasks, and the message of the one before."""
    step = app.tasks["step"]
    rest = json.loads(json.dumps([step.s(by=n) for n in range(count)]))  # as it was read
    call = Call("step", (1, (2, 3)), {"by": 5}, {"chain": rest, **options}, task_id="i", root_id="r", parent_id="p")
    return call, Message({"id": "before", "task": "step"}, b"x" * 1000, content_type="application/json")


def test_the_body_is_the_same_as_at_once(app: Kernel) -> None:
    call, before = following(app)
    deferred = app.publisher.prepare(call, after=before).message
    assert isinstance(deferred, DeferredMessage)
    assert deferred.body == app.publisher.prepare(call).message.body
    assert deferred.size > len(deferred.unwritten.start)


def test_who_runs_it_gets_what_a_reader_would_get(app: Kernel) -> None:
    """A tuple has become a list, for one."""
    call, before = following(app)
    deferred = app.publisher.prepare(call, after=before).message
    assert app.codecs.decode_body(deferred) == app.codecs.decode_body(app.publisher.prepare(call).message)
    assert app.codecs.decode_body(deferred)[0] == [1, [2, 3]]


def test_what_a_task_does_to_its_arguments_is_not_in_the_body(app: Kernel) -> None:
    call, before = following(app)
    deferred = app.publisher.prepare(call, after=before).message
    args, kwargs, embed = app.codecs.decode_body(deferred)
    args.append("more")
    kwargs["by"] = "changed"
    embed["chain"].clear()
    assert deferred.body == app.publisher.prepare(call).message.body


def test_a_copy_with_other_headers_has_its_body(app: Kernel) -> None:
    call, before = following(app)
    deferred = app.publisher.prepare(call, after=before).message
    assert deferred.replace_headers(retries=1).body == deferred.body
    assert Message.unpack(deferred.pack()) == deferred


@pytest.mark.parametrize("options", [{"serializer": "pickle"}, {"compression": "zlib"}, {"chain": None}])
def test_what_would_be_read_otherwise_is_written_at_once(app: Kernel, options: dict[str, Any]) -> None:
    call, before = following(app, **options)
    assert not isinstance(app.publisher.prepare(call, after=before).message, DeferredMessage)
