"""Replies as messages, and the shelf that they come to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kernel_backend_rpc import RpcBackend, letters
from kernel_backend_rpc.letters import Letter
from kernel_backend_rpc.shelf import Shelf

from kernel import Kernel, errors, failure
from kernel.interfaces.backend import BackendConfig, Record
from kernel.interfaces.broker import BrokerConfig


def of_celery(**fields: Any) -> Letter:
    document: dict[str, Any] = {
        "task_id": "a",
        "status": "SUCCESS",
        "result": {"answer": [42, "žluť"]},
        "traceback": None,
        "children": [[["b", None], None]],
        "date_done": "2026-11-21T01:57:37.023282+00:00",
    }
    return Letter(json.dumps({**document, **fields}).encode(), "application/json", "utf-8")


def shelf(*, most: int = 1 << 20, lifetime: float = 60.0) -> Shelf:
    return Shelf(codecs=None, most=most, lifetime=lifetime)


def the_end(value: int, *, size: int = 0) -> Letter:
    record = Record(id="a", state="SUCCESS", result=b"%d" % value + b" " * size)
    return letters.write(record, None)


class Waiting:
    def __init__(self) -> None:
        self.told: list[Record] = []

    def offer(self, record: Record) -> None:
        self.told.append(record)

    @property
    def states(self) -> list[str]:
        return [record.state for record in self.told]

    @property
    def error(self) -> BaseException:
        return failure.decode_exception(json.loads(self.told[-1].result))


def test_what_we_send_is_a_document_of_celerys() -> None:
    record = Record(id="a", state="FAILURE", result=b'{"exc_type": "KeyError"}', traceback="Tb", date_done=1.5)
    letter = letters.write(record, None)
    assert (letter.content_type, letter.content_encoding) == ("application/json", "utf-8")
    assert json.loads(letter.body) == {
        "task_id": "a",
        "status": "FAILURE",
        "result": {"exc_type": "KeyError"},
        "traceback": "Tb",
        "children": None,
        "date_done": "1970-01-01T00:00:01.500000+00:00",
    }


def test_what_celery_sends_is_read() -> None:
    record = letters.read("a", of_celery(group_id="g"), None)
    assert record is not None
    assert json.loads(record.result) == {"answer": [42, "žluť"]}
    assert (record.state, record.group_id, record.children) == ("SUCCESS", "g", '[[["b", null], null]]')
    assert record.date_done == pytest.approx(1795226257.023282)


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_documents_come_in_the_serializer_of_the_result(serializer: str) -> None:
    codecs = Kernel("a", broker="memory://", accept_content=[serializer], result_serializer=serializer).codecs
    data, kind, encoding = codecs.encode_result({"answer": 42})
    letter = letters.write(
        Record(id="a", state="SUCCESS", result=data, content_type=kind, content_encoding=encoding), codecs
    )
    assert letter.content_type == kind
    document = codecs.decode_result(letter.body, kind, encoding)
    assert (document["status"], document["result"]) == ("SUCCESS", {"answer": 42})
    record = letters.read("a", letter, codecs)
    assert record is not None
    assert codecs.decode_result(record.result, record.content_type) == {"answer": 42}


def test_a_reply_that_may_not_be_read_says_so_when_it_is_asked_for() -> None:
    codecs = Kernel("a", broker="memory://").codecs
    record = letters.read("a", Letter(b"\x80\x04N.", "application/x-python-serialize", "binary"), codecs)
    assert record is not None
    with pytest.raises(errors.ContentDisallowed):
        codecs.decode_result(record.result, record.content_type)


@pytest.mark.parametrize(
    "body", [b"", b"nothing", b"[1]", b"{}", b'{"status": 5}', b'{"status": "SUCCESS", "date_done": "x"}']
)
def test_what_is_no_reply_is_none(body: bytes) -> None:
    assert letters.read("a", Letter(body, "application/json", "utf-8"), None) is None


def test_the_first_end_stands() -> None:
    replies, waiting = shelf(), Waiting()
    replies.take([("a", the_end(1)), ("a", the_end(2))])
    replies.add(waiting, ["a"])
    replies.take([("a", of_celery(status="STARTED")), ("a", the_end(3))])
    assert [record.result for record in waiting.told] == [b"1"]
    (record,) = replies.load(["a"])
    assert record is not None
    assert record.result == b"1"


def test_who_waits_is_told_of_every_state() -> None:
    replies, waiting = shelf(), Waiting()
    replies.add(waiting, ["a"])
    replies.take([("a", of_celery(status="STARTED")), ("b", the_end(1)), ("a", of_celery(status="PROGRESS"))])
    replies.take([("a", the_end(1))])
    assert waiting.states == ["STARTED", "PROGRESS", "SUCCESS"]


def test_a_loss_is_told_to_who_waits_and_to_who_asks_later() -> None:
    replies, before, after = shelf(), Waiting(), Waiting()
    replies.take([("there", the_end(1))])
    replies.add(before, ["a"])
    assert replies.lose("the queue was deleted") == 1
    assert isinstance(before.error, errors.ResultLost)
    assert "the queue was deleted" in str(before.error)
    replies.expect(["new"])
    replies.add(after, ["new", "there"])
    assert after.states == ["SUCCESS"]
    replies.add(after, ["b"])
    assert isinstance(after.error, errors.ResultLost)
    # A reply that comes all the same is a reply.
    replies.take([("a", the_end(7))])
    assert before.states == ["FAILURE", "SUCCESS"]
    (record,) = replies.load(["a"])
    assert record is not None
    assert record.result == b"7"


def test_a_loss_is_forgotten_when_no_result_of_before_could_be_there() -> None:
    replies, waiting = shelf(lifetime=0.0), Waiting()
    replies.lose("the queue was deleted")
    replies.add(waiting, ["a"])
    assert waiting.told == []


def test_memory_is_bounded_and_what_was_dropped_is_told_of() -> None:
    replies, waiting = shelf(most=10_000), Waiting()
    replies.take([(f"t{n}", the_end(n, size=1000)) for n in range(20)])
    replies.add(waiting, [f"t{n}" for n in range(20)])
    lost = [record.id for record in waiting.told if record.state == "FAILURE"]
    kept = [record.id for record in waiting.told if record.state == "SUCCESS"]
    assert sorted(lost + kept) == sorted(f"t{n}" for n in range(20))
    assert 5 <= len(kept) <= 10
    assert "t19" in kept
    assert "ignore_result" in waiting.told[0].result.decode()


def test_states_that_nobody_asks_for_do_not_pile_up() -> None:
    replies = shelf()
    for _ in range(10):
        replies.take([("a", of_celery(status="PROGRESS"))] * 10)
    assert len(replies._kept["a"].unread) <= 17
    replies.take([("a", the_end(1))])
    (record,) = replies.load(["a"])
    assert record is not None
    assert record.state == "SUCCESS"


def test_what_was_handed_out_long_ago_is_told_of() -> None:
    replies, waiting = shelf(), Waiting()
    ids = [f"t{n}" for n in range(1500)]
    replies.take([(task_id, the_end(1)) for task_id in ids])
    replies.add(waiting, ids)
    assert set(waiting.states) == {"SUCCESS"}
    again = Waiting()
    replies.add(again, ["t0", "t1499"])
    assert again.states == ["FAILURE", "SUCCESS"]


@pytest.mark.parametrize("broker", [None, BrokerConfig(url="redis://localhost"), BrokerConfig(url="memory://")])
def test_other_brokers_are_refused(broker: BrokerConfig | None) -> None:
    with pytest.raises(errors.ImproperlyConfigured, match="amqp://"):
        RpcBackend(BackendConfig(url="rpc://", broker=broker))


def test_an_app_on_another_broker_is_told_at_its_first_call() -> None:
    app = Kernel("a", broker="memory://", backend="rpc://")
    with pytest.raises(errors.ImproperlyConfigured, match="rpc:// sends results over RabbitMQ"):
        app.send_task("anything")
    app.close()


@pytest.mark.parametrize("memory", [0, -1, "1", True, None])
def test_a_bad_option_is_refused(memory: Any) -> None:
    with pytest.raises(errors.InvalidSetting, match="memory"):
        RpcBackend(BackendConfig(url="rpc://", options={"memory": memory}, broker=BrokerConfig(url="amqp://")))


def test_groups_are_refused_with_what_to_do() -> None:
    backend = RpcBackend(BackendConfig(url="rpc://", broker=BrokerConfig(url="amqp://")))
    for refused in (
        lambda: backend.save_group("g", "[]"),
        lambda: backend.load_group("g"),
        lambda: backend.forget_group("g"),
    ):
        with pytest.raises(NotImplementedError, match="redis://"):
            refused()
