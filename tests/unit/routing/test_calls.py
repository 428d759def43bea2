"""Where calls go: settings, routes, tasks and callers, the stronger the later; and what brokers are given then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from kernel import Broadcast, Exchange, Kernel, Queue, errors
from kernel.call import Call
from kernel.hooks import Route, hookimpl
from kernel.interfaces.broker import (
    STORED,
    Bound,
    BrokerCapabilities,
    ExchangeSpec,
    PublishOutcome,
    PublishState,
    QueueSpec,
)
from kernel.message import Message, Publication

MAIL = Exchange("mail", "topic")
NEWS = Exchange("news", "fanout")
HEADS = Exchange("heads", "headers")
QUEUES = [
    Queue("celery"),
    Queue("eu", MAIL, "mail.eu.#"),
    Queue("every", MAIL, "mail.#"),
    Queue("one", NEWS),
    Queue("two", NEWS),
    Queue("headed", HEADS, binding_arguments={"region": "eu", "size": 2}),
    Queue("any", HEADS, binding_arguments={"x-match": "any", "region": "eu", "urgent": True}),
    Queue("odd", Exchange("odd", "x-odd")),
    Broadcast("all"),
]


class Broker:
    """Keeps what it is given, and answers what a test wants."""

    def __init__(self, **capabilities: Any) -> None:
        self.capabilities = BrokerCapabilities(**capabilities)
        self.declared: list[QueueSpec] = []
        self.sent: list[tuple[str, str, str]] = []
        self.told: list[str] = []
        self.answers: dict[str, PublishOutcome] = {}

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        self.declared += queues

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        self.sent += [(item.queue, item.exchange, item.routing_key) for item in batch]
        return [self.answers.get(item.queue, STORED) for item in batch]

    def broadcast(self, topic: str, batch: Sequence[Message]) -> None:
        self.told += [topic] * len(batch)

    def close(self) -> None: ...


class Remembering(Broker):
    """Knows bindings that others have told it of."""

    def bindings(self, exchange: str) -> Sequence[Bound]:
        known = {
            "mail": [Bound("theirs", "mail.*", "topic"), Bound("eu", "mail.eu.#", "topic")],
            "theirs": [Bound("one", '{"a":1}', "headers"), Bound("two", "unreadable", "headers")],
        }
        return known.get(exchange, [])


class Routing(Broker):
    """Has exchanges."""

    def __init__(self) -> None:
        super().__init__(exchanges=True)
        self.exchanges: list[ExchangeSpec] = []

    def declare_exchanges(self, exchanges: Sequence[ExchangeSpec]) -> None:
        self.exchanges += exchanges


@pytest.fixture
def make() -> Iterator[Any]:
    apps: list[Kernel] = []

    def make(broker: Any = None, plugins: Sequence[object] = (), **settings: Any) -> Kernel:
        app = Kernel("tests", broker="memory://", plugins=plugins, **{"task_queues": QUEUES, **settings})
        apps.append(app)
        if broker is not None:
            app.opened._broker = broker
        return app

    yield make
    for app in apps:
        app.close()


def prepared(app: Kernel, name: str, *args: Any, **options: Any) -> Publication:
    return app.publisher.prepare(Call(name, args, {}, options))


def place(app: Kernel, name: str, *args: Any, **options: Any) -> tuple[str, str, str]:
    found = prepared(app, name, *args, **options)
    return found.queue, found.exchange, found.routing_key


# --- which word counts --------------------------------------------------------------------------------------


def test_the_default_queue_is_for_what_has_no_route(make: Any) -> None:
    app: Kernel = make(task_queues=None, task_default_queue="work", task_routes={"a": "b"})
    assert place(app, "x") == ("work", "", "work")
    assert place(app, "a") == ("b", "", "b")


@pytest.mark.parametrize("fixed", [True, False])
def test_callers_before_tasks_before_routes_before_settings(make: Any, fixed: bool) -> None:
    table = {
        "own": {"queue": "routed", "priority": 5, "serializer": "msgpack"},
        "bare": {"queue": "routed", "priority": 5},
    }
    routes = table if fixed else lambda name, *args, **more: table.get(name)
    app: Kernel = make(task_queues=None, task_routes=routes, task_default_priority=1)

    @app.task(name="own", queue="attribute", serializer="json")
    def own() -> None: ...

    @app.task(name="bare")
    def bare() -> None: ...

    @app.task(name="free")
    def free() -> None: ...

    found = prepared(app, "own")
    assert (found.queue, found.priority, found.message.content_type) == ("attribute", 5, "application/json")
    assert place(app, "own", queue="called") == ("called", "", "called")
    found = prepared(app, "bare")
    assert (found.queue, found.priority) == ("routed", 5)
    assert prepared(app, "bare", priority=9).priority == 9
    assert prepared(app, "bare", queue=None, priority=None).priority == 5
    assert (prepared(app, "free").queue, prepared(app, "free").priority) == ("celery", 1)
    assert prepared(app, "unregistered").queue == "celery"


@pytest.mark.parametrize("fixed", [True, False])
def test_options_of_a_route_are_those_of_a_call(make: Any, fixed: bool) -> None:
    table = {"x": {"queue": "q", "expires": 60, "shadow": "shown", "time_limit": 5, "x_own": "property"}}
    app: Kernel = make(task_queues=None, task_routes=table if fixed else lambda name, *args, **more: table[name])
    found = prepared(app, "x")
    assert found.expires is not None
    assert (found.message.headers["shadow"], found.message.headers["timelimit"]) == ("shown", [5, None])
    assert found.message.properties["x_own"] == "property"
    assert prepared(app, "x", expires=None).expires is None


def test_a_named_queue_takes_the_place_of_what_is_weaker(make: Any) -> None:
    app: Kernel = make(task_routes={"x": {"queue": "eu", "routing_key": "mail.eu.de"}})
    assert place(app, "x") == ("eu", "mail", "mail.eu.de")
    assert place(app, "x", routing_key="mail.eu.at") == ("eu", "mail", "mail.eu.at")
    assert place(app, "x", queue="celery") == ("celery", "", "celery")
    assert place(app, "x", queue="every") == ("every", "mail", "mail.#")


def test_a_plugin_is_asked_before_the_setting(make: Any) -> None:
    class Plugin:
        @hookimpl
        def kernel_route(self, name: str, options: Any) -> Route | None:
            return Route(queue="eu", routing_key="mail.p") if name == "x" else None

    app: Kernel = make(plugins=[Plugin()], task_routes={"*": "celery", "y": "every"})
    assert place(app, "x") == ("eu", "mail", "mail.p")
    assert place(app, "y") == ("every", "mail", "mail.#")
    assert place(app, "x", queue="celery") == ("celery", "", "celery")


def test_a_function_sees_the_call(make: Any) -> None:
    seen: list[Any] = []

    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any) -> Any:
        seen.append((name, list(args), dict(kwargs), dict(options), task and task.name))
        return "celery"

    app: Kernel = make(task_routes=route)

    @app.task(name="known")
    def known(x: int) -> None: ...

    known.apply_async((1,), priority=3)
    app.send_task("unknown", kwargs={"y": 2})
    assert seen == [("known", [1], {}, {"priority": 3}, "known"), ("unknown", [], {"y": 2}, {}, None)]


def test_who_names_a_queue_needs_no_default_one(make: Any) -> None:
    app: Kernel = make(task_create_missing_queues=False, task_queues=["a"])

    @app.task(name="x")
    def x() -> None: ...

    assert place(app, "x", queue="a") == ("a", "", "a")
    with pytest.raises(errors.QueueNotFound, match="no queue 'celery'"):
        place(app, "x")
    with pytest.raises(errors.QueueNotFound, match="no queue 'celery'"):
        place(app, "x", priority=3)


def test_settings_that_change_at_run_time_count(make: Any) -> None:
    app: Kernel = make()

    @app.task(name="x")
    def x() -> None: ...

    assert place(app, "x")[0] == "celery"
    app.conf.task_routes = {"x": "eu"}
    assert place(app, "x") == ("eu", "mail", "mail.eu.#")
    app.conf.task_queues = [Queue("eu")]
    assert place(app, "x") == ("eu", "", "eu")
    x.queue = "other"
    assert place(app, "x") == ("other", "", "other")


def test_a_retry_goes_back_where_its_task_came_from(make: Any) -> None:
    app: Kernel = make(task_routes={"x": "eu"})
    first = prepared(app, "x")
    again = app.publisher.prepare_retry(first.message, queue="every", retries=1)
    assert (again.queue, again.exchange) == ("every", "")
    moved = app.publisher.prepare_retry(first.message, queue="every", retries=1, options={"queue": "eu"})
    assert (moved.queue, moved.exchange, moved.routing_key) == ("eu", "mail", "mail.eu.#")


@pytest.mark.parametrize("options", [{}, {"headers": {"mine": 1}}])
def test_a_message_says_which_exchange_it_was_sent_to(make: Any, options: dict[str, Any]) -> None:
    """Both ways in which messages are made say it; a retry only while it goes back where its task came from."""
    app: Kernel = make(task_routes={"x": "eu"})

    def said(publication: Publication) -> tuple[Any, Any]:
        headers = publication.message.headers
        return headers.get("kernel_exchange"), headers.get("kernel_routing_key")

    first = prepared(app, "x", **options)
    again = partial(app.publisher.prepare_retry, first.message, queue="every", retries=1)
    assert said(first) == said(again()) == ("mail", "mail.eu.#")
    assert said(again(options={"routing_key": "mail.eu.de", "queue": "eu"})) == ("mail", "mail.eu.de")
    assert said(again(options={"queue": "celery"})) == said(prepared(app, "y", **options)) == (None, None)


@pytest.mark.parametrize(
    ("settings", "options", "error"),
    [
        ({"task_create_missing_queues": False}, {"queue": "nowhere"}, errors.QueueNotFound),
        ({"task_create_missing_queues": False, "task_queues": ["a"]}, {}, errors.QueueNotFound),
        ({"task_create_missing_queues": False, "task_routes": {"x": "nowhere"}}, {}, errors.QueueNotFound),
        (
            {"task_create_missing_queues": False, "task_routes": lambda *args, **more: "nowhere"},
            {},
            errors.QueueNotFound,
        ),
        ({"task_routes": lambda *args, **more: 7}, {}, TypeError),
        ({"task_routes": {"x": 7}}, {}, errors.ImproperlyConfigured),
        ({}, {"exchange": "m", "exchange_type": "tpoic", "routing_key": "k"}, ValueError),
        ({"task_queues": {"a": {"exchange": "b", "exchange_type": "tpoic"}}}, {}, errors.ImproperlyConfigured),
        ({"task_routes": lambda *args, **more: 1 / 0}, {}, ZeroDivisionError),
    ],
)
def test_what_cannot_be_is_told_to_the_caller_and_nothing_is_sent(
    make: Any, settings: dict[str, Any], options: dict[str, Any], error: type[Exception]
) -> None:
    broker = Broker()
    app: Kernel = make(broker, **settings)
    with pytest.raises(error):
        app.send_task("x", **options)
    assert broker.sent == []
    assert broker.declared == []


# --- brokers without exchanges ------------------------------------------------------------------------------


def test_exchanges_are_resolved_for_brokers_that_have_none(make: Any) -> None:
    broker = Broker()
    app: Kernel = make(broker)
    app.send_task("x", queue="eu", routing_key="mail.eu.de")
    assert broker.sent == [("eu", "", "eu"), ("every", "", "every")]
    app.send_task("x", exchange="mail", routing_key="mail.us")
    assert broker.sent[2:] == [("every", "", "every")]
    assert {spec.name for spec in broker.declared} == {"eu", "every"}
    assert broker.told == []


@pytest.mark.parametrize(
    ("headers", "takers"),
    [
        ({"region": "eu", "size": 2}, ["headed", "any"]),
        ({"region": "eu"}, ["any"]),
        ({"urgent": True, "size": 2}, ["any"]),
    ],
)
def test_headers_decide_where_they_are_asked(make: Any, headers: dict[str, Any], takers: list[str]) -> None:
    app: Kernel = make()
    app.send_task("x", queue="headed", headers=headers)
    assert [name for name in ("headed", "any", "celery") if app.broker.peek(name, 5)] == takers


def test_copies_have_one_id(make: Any) -> None:
    app: Kernel = make()
    result = app.send_task("x", queue="eu", routing_key="mail.eu.de")
    assert [app.broker.peek(name, 5)[0].id for name in ("eu", "every")] == [result.id, result.id]


def test_a_fanout_is_for_all_queues_and_all_who_listen(make: Any) -> None:
    broker = Broker()
    app: Kernel = make(broker)
    app.send_task("x", queue="one")
    app.send_task("x", queue="all")
    assert broker.sent == [("one", "", "one"), ("two", "", "two")]
    assert broker.told == ["news", "all"]


def test_where_fanouts_are_not_kept_they_are_only_told(make: Any) -> None:
    broker = Broker(keeps_fanouts=False)
    app: Kernel = make(broker)
    app.send_task("x", queue="one")
    app.send_task("x", queue="all", exchange="all")
    assert broker.sent == []
    assert broker.told == ["news/celery", "all"]


def test_what_others_have_bound_counts(make: Any) -> None:
    broker = Remembering()
    app: Kernel = make(broker)
    app.send_task("x", queue="eu", routing_key="mail.eu")
    assert [queue for queue, _, _ in broker.sent] == ["eu", "every", "theirs"]
    app.send_task("x", exchange="theirs", routing_key="any", headers={"a": 1})
    assert [queue for queue, _, _ in broker.sent][3:] == ["one"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"queue": "eu", "routing_key": "post.eu"},
            "no queue is bound to the exchange 'mail' with a key that fits 'post.eu'",
        ),
        ({"exchange": "nowhere", "routing_key": "k"}, "no queue is bound to the exchange 'nowhere'"),
        ({"queue": "odd"}, "of type 'x-odd', which only a broker with exchanges can resolve"),
        ({"queue": "headed", "headers": {"region": "us"}}, "with arguments that fit these headers"),
    ],
)
def test_what_no_queue_takes_is_refused(make: Any, options: dict[str, Any], said: str) -> None:
    broker = Broker()
    app: Kernel = make(broker)
    with pytest.raises(errors.PublishRefused, match=said):
        app.send_task("x", **options)
    assert broker.sent == []


def test_the_worst_answer_of_its_copies_is_that_of_a_message(make: Any) -> None:
    broker = Broker()
    broker.answers["every"] = PublishOutcome(PublishState.REFUSED, "it is full")
    app: Kernel = make(broker)
    calls = [
        Call("x", (), {}, {"queue": "celery"}),
        Call("x", (), {}, {"queue": "eu", "routing_key": "mail.eu"}),
        Call("x", (), {}, {"queue": "eu", "routing_key": "nowhere"}),
        Call("x", (), {}, {"queue": "one"}),
    ]
    answers = app.publisher.deliver([app.publisher.prepare(call) for call in calls])
    assert [answer and str(answer).rpartition(": ")[2] for answer in answers] == [
        None,
        "it is full",
        "no queue is bound to the exchange 'mail' with a key that fits 'nowhere'",
        None,
    ]


# --- brokers with exchanges ---------------------------------------------------------------------------------


def test_a_broker_with_exchanges_is_given_the_message_once(make: Any) -> None:
    broker = Routing()
    app: Kernel = make(broker)
    for _ in range(2):
        app.send_task("x", queue="eu", routing_key="mail.eu.de")
        app.send_task("x", queue="all")
        app.send_task("x")
    assert broker.sent == [("eu", "mail", "mail.eu.de"), ("all", "all", "celery"), ("celery", "", "celery")] * 2
    # The queues that are bound are there before it is sent; the copies of each worker are the workers' own.
    assert [spec.name for spec in broker.declared] == ["eu", "every", "celery"]
    assert [exchange.name for exchange in broker.exchanges] == ["mail", "all"]
    assert broker.told == []


def test_what_is_not_to_be_declared_is_not(make: Any) -> None:
    broker = Routing()
    app: Kernel = make(broker, task_queues=[Queue("celery"), Queue("theirs", no_declare=True)])
    app.send_task("x", queue="theirs")
    assert broker.declared == []


def test_declare_names_queues_and_exchanges(make: Any) -> None:
    broker = Routing()
    app: Kernel = make(broker)
    app.send_task("x", declare=[Queue("given", MAIL, "k"), "eu", Exchange("else", "direct")])
    assert [spec.name for spec in broker.declared][:2] == ["given", "eu"]
    assert [exchange.name for exchange in broker.exchanges] == ["else"]
