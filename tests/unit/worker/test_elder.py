"""Messages of protocol 1: one dictionary in the body, as Celery's `as_task_v1` and its kin write it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kernel import errors
from kernel.interfaces.broker import Delivery
from kernel.message import Message
from kernel.worker.claims.item import Item
from kernel.worker.engine.elder import renewed
from kernel.worker.engine.intake import Intake
from kernel.worker.manifest import TaskFacts

CALL = {
    "task": "t", "id": "i", "args": [1, "two"], "kwargs": {"x": None}, "group": None, "group_index": None, "retries": 2,
    "eta": None, "expires": None, "utc": True, "callbacks": None, "errbacks": None, "timelimit": [9, 5],
    "taskset": "g", "chord": None,
}  # fmt: skip


def message(body: Any = None, headers: Any = None, content_type: str = "application/json", **changes: Any) -> Message:
    data = body if isinstance(body, bytes) else json.dumps({**CALL, **changes}).encode()
    properties = {"correlation_id": "i", "reply_to": "r"}
    return Message(headers or {}, data, content_type=content_type, properties=properties)


def read(given: Message, *, judges_time: bool = False) -> tuple[Item, float]:
    manifest: Any = SimpleNamespace(settings={}, tasks={"t": TaskFacts()})
    intake = Intake(manifest, delivery_limit=3, judges_time=judges_time)
    item = Item(1, Delivery(given, "q", "token"))
    intake.read(item)
    return item, intake.early(item)


def test_it_becomes_one_of_protocol_2() -> None:
    link = {"task": "u", "args": [], "kwargs": {}, "options": {}}
    found = renewed(message(callbacks=[link]))
    assert found is not None
    assert found.headers == {
        "lang": "py", "task": "t", "id": "i", "root_id": "i", "parent_id": None, "group": "g", "retries": 2,
        "timelimit": [9, 5],
    }  # fmt: skip
    embed = {"chain": None, "callbacks": [link], "errbacks": None, "chord": None}
    assert json.loads(found.body) == [[1, "two"], {"x": None}, embed]
    assert found.properties["reply_to"] == "r"


def test_the_engine_takes_it_and_waits_for_its_time() -> None:
    item, early = read(message())
    assert (item.id, item.name, item.hard, item.soft, early) == ("i", "t", 9.0, 5.0, 0.0)
    later = datetime.now(UTC) + timedelta(hours=1)
    for eta in (later.isoformat(), later.replace(tzinfo=None).isoformat()):
        assert 3590 < read(message(eta=eta))[1] < 3601


@pytest.mark.parametrize(
    "given",
    [
        message(headers={"task": "t", "id": "i"}),
        message(headers={"compression": "application/x-gzip"}),
        message(content_type="application/x-python-serialize"),
        message(b"[1, 2]"),
        message(b'{"id": "i"}'),
        message(args=["x" * (1 << 20)]),
        message(task=None),
    ],
    ids=["protocol 2", "compressed", "pickle", "a list", "no task", "too long", "task is null"],
)
def test_what_it_leaves_alone(given: Message) -> None:
    assert renewed(given) is None


@pytest.mark.parametrize("given", [message(b"{"), message(b'{"a":' + b"[" * 100_000), message(args="text")])
def test_what_cannot_be_read_is_told(given: Message) -> None:
    with pytest.raises(errors.InvalidTaskError):
        renewed(given)
    with pytest.raises(errors.InvalidTaskError):
        read(given)
