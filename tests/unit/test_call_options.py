"""The options of a call, one by one, as a consumer of the memory broker sees what they do."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel import Kernel, errors
from kernel.deliver import RetryPolicy
from kernel.interfaces.broker import ConsumeOptions
from kernel.message import Message
from kernel.result import AsyncResult


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("calling", broker="memory://", result_backend="memory://") as app:

        @app.task(name="t.add", expires=500, time_limit=30, soft_time_limit=20, priority=2)
        def add(x: int, y: int = 0) -> int:
            return x + y

        @app.task(name="t.quiet", ignore_result=True)
        def quiet() -> None: ...

        yield app


def sent(app: Kernel, name: str = "t.add", *, by_name: bool = False, **options: Any) -> Message:
    """The message of a call, as it is claimed."""
    queue = options.pop("take", "celery")
    task: Any = app.tasks[name]
    send: Any = app.send_task
    result = send(name, (1,), {}, **options) if by_name else task.apply_async((1,), **options)
    consumer = app.broker.consume([queue], ConsumeOptions(owner="test"))
    try:
        (delivery,) = consumer.fetch(1, 100_000, 0)
    finally:
        consumer.close()
    app.broker.purge(queue)
    assert delivery.message.id == result.id
    return delivery.message


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({}, {"shadow": None, "eta": None, "retries": 0, "timelimit": [30, 20], "group": None}),
        ({"shadow": "sum"}, {"shadow": "sum", "task": "t.add"}),
        ({"task_id": "mine"}, {"id": "mine", "root_id": "mine", "parent_id": None}),
        ({"headers": {"own": [1, {"deep": None}]}}, {"own": [1, {"deep": None}]}),
        ({"argsrepr": "(***)", "kwargsrepr": "{***}"}, {"argsrepr": "(***)", "kwargsrepr": "{***}"}),
        ({"ignore_result": True}, {"ignore_result": True}),
        ({"group_id": "g", "group_index": 3}, {"group": "g", "group_index": 3}),
        ({"root_id": "r", "parent_id": "p"}, {"root_id": "r", "parent_id": "p"}),
        ({"retries": 2, "replaced_task_nesting": 1, "origin": "me"}, {"retries": 2, "origin": "me"}),
        ({"time_limit": 9, "soft_time_limit": 5}, {"timelimit": [9, 5]}),
        ({"time_limit": None, "soft_time_limit": None}, {"timelimit": [None, None]}),
        ({"soft_time_limit": None}, {"timelimit": [30, None]}),
        ({"expires": None}, {"expires": None}),
        ({"stamped_headers": ["by"], "stamps": {"by": ["me"]}}, {"stamped_headers": ["by"], "stamps": {"by": ["me"]}}),
        ({"compression": "zlib"}, {"compression": "application/x-gzip"}),
    ],
)
def test_headers(app: Kernel, by_name: bool, options: dict[str, Any], headers: dict[str, Any]) -> None:
    found = sent(app, by_name=by_name, **options).headers
    assert {name: found.get(name) for name in headers} == headers


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    ("options", "properties"),
    [
        ({}, {"priority": 2, "delivery_mode": 2}),
        ({"priority": 0}, {"priority": 0}),
        ({"priority": 255}, {"priority": 255}),
        ({"reply_to": "elsewhere"}, {"reply_to": "elsewhere"}),
        ({"delivery_mode": "transient"}, {"delivery_mode": 1}),
        ({"delivery_mode": 1}, {"delivery_mode": 1}),
        ({"expires": 60}, {"expiration": "60000"}),
        ({"expires": timedelta(minutes=1)}, {"expiration": "60000"}),
        (
            {"MessageGroupId": "a", "message_attributes": {"b": 1}},
            {"MessageGroupId": "a", "message_attributes": {"b": 1}},
        ),
        ({"properties": {"app_id": "x"}}, {"app_id": "x"}),
        ({"mandatory": True, "immediate": True}, {"mandatory": None, "immediate": None}),
    ],
)
def test_properties(app: Kernel, by_name: bool, options: dict[str, Any], properties: dict[str, Any]) -> None:
    found = sent(app, by_name=by_name, **options).properties
    assert {name: found.get(name) for name in properties} == properties


def test_the_reply_goes_to_this_process(app: Kernel) -> None:
    assert sent(app).properties["reply_to"] == app.oid


@pytest.mark.parametrize(
    "expires",
    [3600, 3600.5, "2100-01-01T00:00:00+00:00", datetime(2100, 1, 1, tzinfo=UTC), datetime(2100, 1, 1)],
)
def test_forms_of_expires(app: Kernel, expires: Any) -> None:
    message = sent(app, expires=expires)
    until = datetime.fromisoformat(message.headers["expires"])
    assert until.tzinfo is not None
    if isinstance(expires, int | float):
        assert until.timestamp() == pytest.approx(time.time() + expires, abs=60)
    else:
        assert until == datetime(2100, 1, 1, tzinfo=UTC)
    assert int(message.properties["expiration"]) == pytest.approx((until.timestamp() - time.time()) * 1000, abs=60_000)


def test_a_call_that_is_late_already_is_sent_with_a_warning(app: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kernel.publish"):
        app.tasks["t.add"].apply_async((1,), expires=-100, task_id="late")
        app.tasks["t.add"].apply_async((1,), expires=100)
    assert [record.getMessage() for record in caplog.records] == ["task t.add[late] expired 100 s before it was sent"]


def test_links_are_one_or_several(app: Kernel) -> None:
    add: Any = app.tasks["t.add"]
    _, _, embed = app.codecs.decode_body(sent(app, link=add.s(1), link_error=[add.s(2), add.si(3)]))
    assert [link["args"] for link in embed["callbacks"]] == [[1]]
    assert [(link["args"], link["immutable"]) for link in embed["errbacks"]] == [([2], False), ([3], True)]
    _, _, embed = app.codecs.decode_body(sent(app, link=[add.s(1), add.s(4)]))
    assert [link["args"] for link in embed["callbacks"]] == [[1], [4]]
    assert embed["errbacks"] is None


def test_the_serializer_is_that_of_the_call(app: Kernel) -> None:
    assert sent(app, serializer="pickle").content_type == "application/x-python-serialize"
    app.tasks["t.add"].serializer = "yaml"
    assert sent(app).content_type == "application/x-yaml"
    assert sent(app, serializer="json").content_type == "application/json"


def test_where_it_goes(app: Kernel) -> None:
    assert sent(app, queue="other", take="other").task == "t.add"
    assert sent(app, routing_key="other", queue="third", take="third").task == "t.add"


def test_results_that_are_ignored_are_none_at_once(app: Kernel) -> None:
    add, quiet = app.tasks["t.add"], app.tasks["t.quiet"]
    for result in (
        add.apply_async((1,), ignore_result=True),
        quiet.delay(),
        app.send_task("t.add", (1,), ignore_result=True),
    ):
        assert result.ignored
        assert result.get() is None
    assert not add.delay(1).ignored
    assert not quiet.apply_async(ignore_result=False).ignored


def test_the_class_of_a_result_may_be_given(app: Kernel) -> None:
    class Mine(AsyncResult[Any]):
        pass

    result = app.send_task("t.add", (1,), result_cls=Mine)
    assert type(result) is Mine
    assert (result.task_name, result._app) == ("t.add", app)


def test_send_task_says_that_it_is_not_eager(app: Kernel) -> None:
    app.conf.task_always_eager = True
    with pytest.warns(errors.AlwaysEagerIgnored, match=r"send_task\('t\.add'\) publishes although"):
        app.send_task("t.add", (1,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert app.tasks["t.add"].apply_async((1,), queue="nowhere", countdown=100, retry=False).get() == 1
    assert [item.name for item in app.broker.stats()] == ["celery"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("event_dispatcher", "a call takes no 'event_dispatcher': "),
        ("router", "router is <object"),
        ("task_type", "task_type is <object"),
    ],
)
def test_parts_of_celerys_machinery_are_refused_by_name(app: Kernel, option: str, said: str) -> None:
    given: Any = {option: object()}
    with pytest.raises(TypeError, match=said):
        app.send_task("t.add", (1,), **given)
    app.send_task("t.add", (1,), **{option: None})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"max_retry": 3}, "has no 'max_retry'"),
        ({"max_retries": -1}, r"\['max_retries'\] is -1"),
        ({"max_retries": "3"}, "whole number"),
        ({"interval_start": "1"}, r"\['interval_start'\] is '1'"),
        ({"interval_step": -1}, "0 or more"),
        ({"interval_max": float("inf")}, r"\['interval_max'\] is inf"),
        ({"retry_errors": ["OSError"]}, "tuple of exception classes"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_before_anything_is_sent(
    app: Kernel, policy: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        app.tasks["t.add"].apply_async((1,), retry_policy=policy)
    assert app.broker.stats() == []


def test_a_policy_lies_over_the_setting() -> None:
    setting = {"max_retries": 7, "interval_start": 1, "interval_step": 2, "interval_max": 3, "retry_errors": None}
    assert RetryPolicy.of(setting, {"max_retries": None}) == RetryPolicy(None, 1, 2, 3)
    assert RetryPolicy.of({}, {"retry_errors": (OSError,)}).retry_errors == (OSError,)
    assert RetryPolicy.of({}, {"retry_errors": OSError}).retry_errors == (OSError,)
    assert RetryPolicy.of({}, None).max_retries == 3
