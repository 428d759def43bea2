from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel import errors
from kernel.app import Kernel
from kernel.deliver import BATCH, RetryPolicy
from kernel.hooks import Route, hookimpl
from kernel.interfaces.broker import STORED, PublishOutcome, PublishState
from kernel.message import Message, Publication
from kernel.naming import derive_id, new_id
from kernel.publish import Call
from kernel.request import Request, current_request

PROTOCOL = {
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
}


class Broker:
    """Answers what a test wants, and keeps what it got."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.batches: list[list[Publication]] = []
        self.declared: list[str] = []

    def declare(self, queues: Sequence[Any]) -> None:
        self.declared += [queue.name for queue in queues]

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        self.batches.append(list(batch))
        answer = self.answers.pop(0) if self.answers else STORED
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, list):
            return answer
        return [answer] * len(batch)

    def close(self) -> None: ...


UNKNOWN = PublishOutcome(PublishState.UNKNOWN, "connection reset")
REFUSED = PublishOutcome(PublishState.REFUSED, "too large")


@pytest.fixture
def app() -> Iterator[Kernel]:
    app = Kernel("tests", broker="memory://", task_publish_retry_policy={"max_retries": 3, "interval_step": 0.001})

    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    yield app
    app.close()


def using(app: Kernel, broker: Broker) -> Broker:
    app.opened._broker = broker  # type: ignore[assignment]
    return broker


def prepare(app: Kernel, *args: Any, name: str = "add", **options: Any) -> Publication:
    return app.publisher.prepare(Call(name, args, {}, options))


# --- messages -----------------------------------------------------------------------------------------------


def test_a_plain_message_is_protocol_2(app: Kernel) -> None:
    message = prepare(app, 2, 3).message
    headers = message.headers
    assert set(headers) == PROTOCOL
    assert (headers["lang"], headers["task"], headers["retries"]) == ("py", "add", 0)
    assert headers["timelimit"] == [None, None]
    assert headers["root_id"] == headers["id"] == message.properties["correlation_id"]
    assert headers["parent_id"] is None
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(2, 3)", "{}")
    assert headers["origin"].startswith("gen")
    assert "@" in headers["origin"]
    assert headers["stamps"] == {}
    assert json.loads(message.body) == [[2, 3], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.properties == {
        "correlation_id": headers["id"],
        "reply_to": app.oid,
        "delivery_mode": 2,
        "priority": 0,
    }


def test_the_quick_way_and_the_long_way_make_the_same_message(app: Kernel) -> None:
    args, kwargs, task_id = (1, 'ä"\\'), {"y": None}, 'i"d'
    quick = app.publisher.prepare(Call("add", args, kwargs, task_id=task_id)).message
    long = app.publisher.prepare(Call("add", args, kwargs, {"add_to_parent": True}, task_id=task_id)).message
    assert quick.headers == long.headers
    assert (quick.body, quick.properties, quick.content_type) == (long.body, long.properties, long.content_type)


@given(st.lists(st.text() | st.integers() | st.floats() | st.booleans() | st.none(), max_size=5), st.text(min_size=1))
@settings(max_examples=100, deadline=None)
def test_any_arguments_and_ids_make_headers_that_are_json(args: list[Any], task_id: str) -> None:
    app = Kernel("tests", broker="memory://")
    message = app.publisher.prepare(Call('any.name"', args, {"k": args}, task_id=task_id)).message
    assert message.headers["id"] == task_id
    assert len(message.headers["argsrepr"]) <= 1024
    assert len(message.headers["kwargsrepr"]) <= 1024
    app.close()


def test_options_end_up_in_headers_and_properties(app: Kernel) -> None:
    link = app.signature("log", (1,), queue="logs")
    found = prepare(
        app,
        1,
        queue="fast",
        priority=7,
        shadow="shown",
        time_limit=10,
        soft_time_limit=5,
        headers={"tenant": "a"},
        ignore_result=True,
        link=link,
        link_error=[link, link],
        argsrepr="(secret)",
        task_id="mine",
        group_id="g",
        group_index=2,
        reply_to="there",
        MessageGroupId="x",
        delivery_mode="transient",
    )
    headers, embed = found.message.headers, json.loads(found.message.body)[2]
    assert (found.queue, found.priority, found.routing_key, found.persistent) == ("fast", 7, "fast", False)
    assert (headers["shadow"], headers["timelimit"], headers["tenant"], headers["ignore_result"]) == (
        "shown",
        [10, 5],
        "a",
        True,
    )
    assert (headers["argsrepr"], headers["id"]) == ("(secret)", "mine")
    assert (headers["group"], headers["group_index"]) == ("g", 2)
    (callback,) = embed["callbacks"]
    assert callback == {**link, "args": [1]}
    assert len(embed["errbacks"]) == 2
    assert found.message.properties["reply_to"] == "there"
    assert found.message.properties["MessageGroupId"] == "x"
    assert found.message.properties["delivery_mode"] == 1


def test_countdown_eta_and_expires(app: Kernel) -> None:
    now = time.time()
    found = prepare(app, 1, countdown=10, eta=datetime(2000, 1, 1, tzinfo=UTC), expires=60)
    assert found.due == pytest.approx(now + 10, abs=5)
    assert found.expires == pytest.approx(now + 60, abs=5)
    assert datetime.fromisoformat(found.message.headers["eta"]).timestamp() == pytest.approx(found.due)
    assert found.message.headers["eta"].endswith("+00:00")
    assert 50_000 < int(found.message.properties["expiration"]) <= 60_000
    moment = datetime(2030, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    found = prepare(app, 1, eta=moment, expires=datetime(2000, 1, 1, tzinfo=UTC))
    assert found.message.headers["eta"] == "2030-07-01T12:00:00+02:00"
    assert found.due == moment.timestamp()
    assert found.message.properties["expiration"] == "0"
    assert prepare(app, 1, eta="2030-01-01T00:00:00+01:00").due == datetime(2029, 12, 31, 23, tzinfo=UTC).timestamp()
    assert prepare(app, 1, countdown=0).due is None
    assert prepare(app, 1, countdown=None, eta=None).message.headers["eta"] is None


def test_naive_times_are_read_in_the_zone_of_the_app() -> None:
    for zone, hour in (("Europe/Berlin", 11), ("UTC", 12), ("Asia/Tokyo", 3)):
        app = Kernel("tests", broker="memory://", timezone=zone)
        found = prepare(app, 1, name="x", eta=datetime(2030, 1, 1, 12))
        assert found.due == datetime(2030, 1, 1, hour, tzinfo=UTC).timestamp()
        app.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"countdown": "5"}, TypeError),
        ({"countdown": -3e9}, ValueError),
        ({"countdown": float("nan")}, ValueError),
        ({"countdown": float("inf")}, ValueError),
        ({"countdown": 1e15}, ValueError),
        ({"eta": 5}, TypeError),
        ({"eta": "tomorrow"}, ValueError),
        ({"expires": "soon"}, ValueError),
        ({"expires": object()}, TypeError),
        ({"priority": 256}, ValueError),
        ({"priority": -1}, ValueError),
        ({"priority": "high"}, ValueError),
        ({"time_limit": 1, "soft_time_limit": 2}, ValueError),
        ({"time_limit": 0}, ValueError),
        ({"queue": 5}, TypeError),
        ({"link": 5}, TypeError),
        ({"link": ["x"]}, TypeError),
        ({"delivery_mode": 3}, ValueError),
        ({"headers": {"id": "x"}}, ValueError),
        ({"headers": ["x"]}, TypeError),
        ({"shadow": 5}, TypeError),
        ({"group_id": 5}, TypeError),
        ({"root_id": 5}, TypeError),
        ({"retries": -1}, TypeError),
        ({"ignore_result": "no"}, TypeError),
        ({"headers": {"x": object()}}, errors.EncodeError),
        ({"properties": {"x": object()}}, errors.EncodeError),
        ({"coutdown": 5}, TypeError),
        ({"task_id": 5}, TypeError),
        ({"serializer": "jsno"}, errors.DriverNotFound),
        ({"compression": "zlob"}, errors.DriverNotFound),
        ({"connection": object()}, TypeError),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(
    app: Kernel, options: dict[str, Any], error: type[Exception]
) -> None:
    broker = using(app, Broker())
    with pytest.raises(error):
        app.tasks["add"].apply_async((1,), **options)
    assert broker.batches == []


def test_what_cannot_be_serialized_is_told_with_its_place(app: Kernel) -> None:
    broker = using(app, Broker())
    with pytest.raises(errors.EncodeError, match=r"args\[0\]\['order'\]"):
        app.tasks["add"].delay({"order": object()})
    assert broker.batches == []


def test_a_misspelled_option_is_told(app: Kernel) -> None:
    with pytest.raises(TypeError, match="did you mean 'countdown'"):
        prepare(app, 1, countdwon=5)


def test_limits_and_expiry_of_the_task_can_be_cleared(app: Kernel) -> None:
    @app.task(name="slow", time_limit=10, soft_time_limit=5, expires=60, priority=3, queue="own")
    def slow() -> None: ...

    found = prepare(app, name="slow")
    assert found.message.headers["timelimit"] == [10, 5]
    assert found.expires is not None
    assert (found.priority, found.queue) == (3, "own")
    cleared = prepare(app, name="slow", time_limit=None, soft_time_limit=None, expires=None, priority=None)
    assert cleared.message.headers["timelimit"] == [None, None]
    assert cleared.expires is None
    assert cleared.priority == 3


def test_a_plan_follows_the_settings(app: Kernel) -> None:
    assert prepare(app, 1).queue == "celery"
    app.conf.task_default_queue = "other"
    app.conf.task_default_priority = 4
    found = prepare(app, 1)
    assert (found.queue, found.priority, found.message.properties["priority"]) == ("other", 4, 4)


def test_missing_queues_are_refused_when_told_so(app: Kernel) -> None:
    app.conf.task_create_missing_queues = False
    with pytest.raises(errors.QueueNotFound, match=r"^there is no queue 'nowhere'"):
        prepare(app, 1, queue="nowhere")
    assert prepare(app, 1, queue="celery").queue == "celery"


def test_a_queue_may_be_an_object_with_a_name(app: Kernel) -> None:
    class Queue:
        name = "named"

    assert prepare(app, 1, queue=Queue()).queue == "named"


def test_compression_is_used_and_told(app: Kernel) -> None:
    found = prepare(app, "a" * 2000, compression="zlib").message
    assert found.headers["compression"] == "application/x-gzip"
    assert len(found.body) < 500
    assert app.codecs.decode_body(found)[0] == ["a" * 2000]


def test_long_arguments_are_cut_in_the_display_text(app: Kernel) -> None:
    headers = prepare(app, list(range(10_000)), "x" * 5000).message.headers
    assert len(headers["argsrepr"]) == 1024
    assert headers["argsrepr"].endswith("...")


# --- lineage ------------------------------------------------------------------------------------------------


def test_a_call_inside_a_task_has_a_parent_and_a_root(app: Kernel) -> None:
    token = current_request.set(Request(id="p", root_id="r", task="x", app=app, called_directly=False))
    try:
        assert _lineage(prepare(app, 1)) == ("r", "p")
        assert _lineage(app.publisher.prepare(Call("add", (1,), detached=True))) == ("own", None)
        assert _lineage(app.publisher.prepare(Call("add", (1,), root_id="a", parent_id="b"))) == ("a", "b")
        other = Kernel("other", broker="memory://")
        assert _lineage(other.publisher.prepare(Call("x"))) == ("own", None)
        other.close()
    finally:
        current_request.reset(token)


def _lineage(publication: Publication) -> tuple[str, str | None]:
    headers = publication.message.headers
    return "own" if headers["root_id"] == headers["id"] else headers["root_id"], headers["parent_id"]


def test_priority_of_the_parent_is_inherited_when_told_so(app: Kernel) -> None:
    app.conf.task_inherit_parent_priority = True
    token = current_request.set(
        Request(id="p", task="x", app=app, called_directly=False, delivery_info={"priority": 6})
    )
    try:
        assert prepare(app, 1).priority == 6
        assert prepare(app, 1, priority=2).priority == 2
    finally:
        current_request.reset(token)
    assert prepare(app, 1).priority == 0


def test_ids_are_uuids_and_derived_ones_are_always_the_same() -> None:
    import uuid

    assert uuid.UUID(new_id()).version == 4
    assert len({new_id() for _ in range(1000)}) == 1000
    first = derive_id("parent", "link", 0)
    # Pinned: a worker of another version must find the same successors.
    assert first == "3c48f324-2ab3-44a7-a199-442d699963f3"
    assert uuid.UUID(first).version == 4
    assert uuid.UUID(first).variant == uuid.RFC_4122
    others = [derive_id("parent", "link", 1), derive_id("parent", "errback", 0), derive_id("q", "link", 0)]
    assert len({first, *others}) == 4


def test_a_redelivered_publication_says_so(app: Kernel) -> None:
    assert app.publisher.prepare(Call("add", (1,), redelivered=True)).message.headers["redelivered"] is True


# --- retries of tasks ---------------------------------------------------------------------------------------


def test_a_retry_is_the_same_message_later(app: Kernel) -> None:
    link = app.signature("log")
    first = prepare(app, 1, task_id="i", link=link, expires=600, priority=5, time_limit=9, headers={"a": 1})
    again = app.publisher.prepare_retry(first.message, queue="q", retries=1, due=2_000_000_000.5)
    changed = {"retries", "eta"}
    assert {k: v for k, v in again.message.headers.items() if k not in changed} == {
        k: v for k, v in first.message.headers.items() if k not in changed
    }
    assert again.message.headers["retries"] == 1
    assert again.message.headers["eta"] == "2033-05-18T03:33:20.500000+00:00"
    assert again.message.body is first.message.body
    assert (again.due, again.queue, again.priority, again.expires) == (2_000_000_000.5, "q", 5, first.expires)
    assert again.message.properties["correlation_id"] == "i"


def test_a_retry_with_other_arguments_keeps_the_rest_of_the_body(app: Kernel) -> None:
    first = prepare(app, 1, link=app.signature("log"), compression="zlib")
    again = app.publisher.prepare_retry(
        first.message, queue="q", retries=2, args=(5,), options={"queue": "else", "time_limit": 3, "priority": 1}
    )
    args, kwargs, embed = app.codecs.decode_body(again.message)
    assert (args, kwargs) == ([5], {})
    assert embed["callbacks"][0]["task"] == "log"
    assert again.message.headers["argsrepr"] == "(5,)"
    assert again.message.headers["timelimit"] == [3, None]
    assert (again.queue, again.priority, again.due) == ("else", 1, None)


def test_a_retry_is_not_marked_as_redelivered(app: Kernel) -> None:
    first = app.publisher.prepare(Call("add", (1,), redelivered=True))
    again = app.publisher.prepare_retry(first.message, queue="q", retries=1)
    assert "redelivered" not in again.message.headers


def test_a_retry_of_the_least_message_works(app: Kernel) -> None:
    least = Message({"id": "i", "task": "t"}, b"[[1], {}, null]", content_type="application/json")
    again = app.publisher.prepare_retry(least, queue="q", retries=1, kwargs={"a": 1})
    assert app.codecs.decode_body(again.message)[:2] == ([1], {"a": 1})


# --- sending ------------------------------------------------------------------------------------------------


def test_batches_are_bounded_and_in_order(app: Kernel) -> None:
    broker = using(app, Broker())
    publications = [prepare(app, number) for number in range(BATCH + 5)]
    app.publisher.send(publications)
    assert [len(batch) for batch in broker.batches] == [BATCH, 5]
    assert [item for batch in broker.batches for item in batch] == publications
    assert broker.declared == ["celery"]


def test_unknown_is_sent_again_with_the_same_id(app: Kernel) -> None:
    broker = using(app, Broker([STORED, UNKNOWN, STORED], UNKNOWN, STORED))
    items = [prepare(app, number) for number in range(3)]
    app.publisher.send(items)
    first, *again = broker.batches
    assert first == items
    assert [[item.message.id for item in batch] for batch in again] == [[items[1].message.id]] * 2
    # Whoever runs it looks first whether it was run.
    assert all(batch[0].message.headers["redelivered"] is True for batch in again)
    assert "redelivered" not in items[1].message.headers


def test_unknown_to_the_end_is_told_as_such(app: Kernel) -> None:
    using(app, Broker(*[UNKNOWN] * 10))
    with pytest.raises(errors.PublishUnknown, match="may or may not be stored"):
        app.tasks["add"].delay(1)


def test_what_may_have_arrived_once_is_unknown_however_later_attempts_fail(app: Kernel) -> None:
    using(app, Broker(UNKNOWN, *[errors.OperationalError("nobody listens there")] * 9))
    with pytest.raises(errors.PublishUnknown, match=r"may or may not be stored.*nobody listens there"):
        app.tasks["add"].delay(1)


def test_a_refusal_is_final(app: Kernel) -> None:
    broker = using(app, Broker([REFUSED, STORED]))
    items = [prepare(app, 1), prepare(app, 2)]
    answers = app.publisher.deliver(items)
    assert isinstance(answers[0], errors.OperationalError)
    assert "too large" in str(answers[0])
    assert answers[1] is None
    assert len(broker.batches) == 1


def test_a_broker_that_is_away_is_tried_again_and_then_told(app: Kernel) -> None:
    away = errors.OperationalError("connection refused")
    broker = using(app, Broker(away, away, STORED))
    app.tasks["add"].delay(1)
    assert len(broker.batches) == 3
    broker = using(app, Broker(*[away] * 10))
    app.conf.task_publish_retry_policy = {"max_retries": 2, "interval_step": 0.001}
    with pytest.raises(errors.OperationalError, match=r"3 attempts.*connection refused.*broker_url") as caught:
        app.tasks["add"].delay(1)
    assert caught.value.__cause__ is away
    broker = using(app, Broker(away))
    with pytest.raises(errors.OperationalError, match="1 attempt"):
        app.tasks["add"].apply_async((1,), retry=False)
    assert len(broker.batches) == 1


def test_no_error_shows_a_password() -> None:
    app = Kernel("tests", broker="memory://me:hunter2@host/x", task_publish_retry=False)
    using(app, Broker(errors.OperationalError("away")))
    with pytest.raises(errors.OperationalError) as caught:
        app.send_task("x")
    assert "hunter2" not in str(caught.value)
    assert "memory://me:" in str(caught.value)
    app.close()


def test_retry_errors_limit_what_is_tried_again(app: Kernel) -> None:
    class Special(errors.OperationalError): ...

    broker = using(app, Broker(errors.OperationalError("away"), STORED))
    with pytest.raises(errors.OperationalError):
        app.tasks["add"].apply_async((1,), retry_policy={"retry_errors": (Special,)})
    assert len(broker.batches) == 1


def test_a_policy_says_how_long_to_pause() -> None:
    policy = RetryPolicy.of({"max_retries": 9, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.6}, None)
    assert [round(policy.pause(n), 3) for n in range(1, 6)] == [0.1, 0.3, 0.5, 0.6, 0.6]
    with pytest.raises(ValueError, match="max_retires"):
        RetryPolicy.of({}, {"max_retires": 1})
    with pytest.raises(TypeError, match="retry_policy is 5; a dictionary"):
        RetryPolicy.of({}, 5)  # type: ignore[arg-type]


def test_closing_the_app_ends_the_pauses(app: Kernel) -> None:
    using(app, Broker(*[errors.OperationalError("away")] * 100))
    app.publisher.stop()
    started = time.monotonic()
    with pytest.raises(errors.OperationalError):
        app.tasks["add"].apply_async((1,), retry_policy={"max_retries": None, "interval_start": 60, "interval_max": 60})
    assert time.monotonic() - started < 30


def test_an_error_that_is_no_operational_one_passes_through(app: Kernel) -> None:
    using(app, Broker(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        app.tasks["add"].delay(1)


# --- plugins ------------------------------------------------------------------------------------------------


class Watcher:
    def __init__(self) -> None:
        self.ended: list[tuple[str, BaseException | None]] = []

    @hookimpl
    def kernel_publish_start(self, publication: Publication) -> None:
        publication.message = publication.message.replace_headers(trace="abc")
        publication.queue = "edited"

    @hookimpl
    def kernel_publish_end(self, publication: Publication, error: BaseException | None) -> None:
        self.ended.append((publication.message.id, error))
        raise RuntimeError("a watcher that fails changes nothing")


def test_plugins_edit_before_and_watch_after() -> None:
    watcher = Watcher()
    app = Kernel("tests", broker="memory://", plugins=[watcher], task_publish_retry=False)
    broker = using(app, Broker())
    result = app.send_task("x", (1,))
    sent = broker.batches[0][0]
    assert sent.message.headers["trace"] == "abc"
    assert sent.queue == "edited"
    assert watcher.ended == [(result.id, None)]
    using(app, Broker(errors.OperationalError("away")))
    with pytest.raises(errors.OperationalError):
        app.send_task("x", (1,))
    assert isinstance(watcher.ended[-1][1], errors.OperationalError)
    app.close()


def test_an_editing_plugin_that_fails_stops_the_call() -> None:
    class Refusing:
        @hookimpl
        def kernel_publish_start(self, publication: Publication) -> None:
            raise PermissionError("not today")

    app = Kernel("tests", broker="memory://", plugins=[Refusing()])
    broker = using(app, Broker())
    with pytest.raises(PermissionError):
        app.send_task("x")
    assert broker.batches == []
    app.close()


def test_a_plugin_routes_unless_the_caller_does() -> None:
    class Router:
        @hookimpl
        def kernel_route(self, name: str, options: Any) -> Route | None:
            return Route(queue="routed", options={"priority": 9}) if name.startswith("feed.") else None

    app = Kernel("tests", broker="memory://", plugins=[Router()])
    assert (prepare(app, name="feed.x").queue, prepare(app, name="feed.x").priority) == ("routed", 9)
    assert prepare(app, name="feed.x", queue="mine", priority=1).queue == "mine"
    assert prepare(app, name="other").queue == "celery"
    app.close()


def test_timedelta_is_a_countdown(app: Kernel) -> None:
    found = prepare(app, 1, countdown=timedelta(minutes=1))
    assert found.due == pytest.approx(time.time() + 60, abs=5)
