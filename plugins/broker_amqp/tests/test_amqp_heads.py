"""Content headers that are cut for a task are those that its messages would have had one by one."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from kernel_broker_amqp import envelope
from kernel_broker_amqp.heads import Heads

from kernel import Kernel
from kernel.message import Message
from kernel.publish import Call


@dataclass
class Case:
    args: tuple[object, ...] = ()
    task_id: str = "an-id"
    root_id: str | None = None
    parent_id: str | None = None
    priority: int = 0
    delivery_mode: int = 2


CASES = [
    Case(),
    Case(args=(1, "two", {"three": ['"', "\\", "\n"]})),
    Case(args=("ä\ud800 ☃",), task_id="ä☃"),
    Case(root_id="a-root", parent_id="a-parent"),
    Case(task_id="x" * 200),
    Case(priority=9),
    Case(priority=1, delivery_mode=1),
    Case(delivery_mode=1),
]


def _message(case: Case) -> tuple[Message, int, bool]:
    app = Kernel("heads", broker="memory://")
    app.task(name="task.ä", priority=case.priority, delivery_mode=case.delivery_mode)(print)
    try:
        made = app.publisher.prepare(
            Call("task.ä", case.args, {}, task_id=case.task_id, root_id=case.root_id, parent_id=case.parent_id)
        )
        return made.message, made.priority, made.persistent
    finally:
        app.close()


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_same_bytes_as_without_a_form(case: Case) -> None:
    message, priority, persistent = _message(case)
    assert message.filled is not None
    plain = Message(
        message.raw_headers,
        message.body,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        properties=message.raw_properties,
    )
    heads = Heads()
    expected = envelope.head(plain, priority=priority, persistent=persistent)
    assert heads.head(message, priority=priority, persistent=persistent) == expected
    assert heads.head(message, priority=priority, persistent=persistent) == expected


def test_what_the_message_says_now_counts() -> None:
    message, priority, persistent = _message(Case())
    message.properties["correlation_id"] = "another"
    head = Heads().head(message, priority=priority, persistent=persistent)
    assert envelope.AmqpMessage(head, b"").properties["correlation_id"] == "another"
    changed = _message(Case())[0].replace_headers(mine=1)
    head = Heads().head(changed, priority=priority, persistent=persistent)
    assert envelope.AmqpMessage(head, b"").headers["mine"] == 1


def test_another_priority_than_the_task_has() -> None:
    message, _, _ = _message(Case())
    head = Heads().head(message, priority=7, persistent=False)
    found = envelope.AmqpMessage(head, message.body)
    assert found.properties["priority"] == 7
    assert found.properties["delivery_mode"] == 1
    assert found.headers == json.loads(message.raw_headers)


def test_a_batch_is_not_read_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form is for nothing once somebody reads the message before the broker has it."""
    from kernel.deliver import Delivering
    from kernel.publish import RetryPolicy

    app = Kernel("heads", broker="memory://")
    app.task(name="t")(print)
    try:
        expected: list[str] = []
        monkeypatch.setattr(app.opened, "expect", expected.extend)
        made = [app.publisher.prepare(Call("t", (number,), {})) for number in range(3)]
        assert Delivering(app).deliver(made, RetryPolicy.once()) == [None] * 3
        assert expected == [publication.message.id for publication in made]
    finally:
        app.close()
