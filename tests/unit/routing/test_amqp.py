"""`app.amqp`: its queues and its router, and the options of a call that name another one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kernel import Exchange, Kernel, Queue, errors
from kernel.call import Call
from kernel.worker.manifest import describe
from kernel.worker.options import WorkerOptions

MAIL = Exchange("mail", "topic")


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel(
        "tests",
        broker="memory://",
        task_queues=[Queue("celery"), Queue("eu", MAIL, "mail.eu.#", alias="europe")],
        task_routes={"feed.*": "eu", "video": {"queue": "media", "priority": 7}},
    ) as made:
        yield made


def place(app: Kernel, name: str, **options: Any) -> tuple[str, str, int]:
    found = app.publisher.prepare(Call(name, (), {}, options))
    return found.queue, found.exchange, found.priority


def consumed(app: Kernel, *queues: str) -> list[str]:
    return describe(app, WorkerOptions(processes=0, pool="threads", queues=list(queues))).consuming.names


# --- queues -------------------------------------------------------------------------------------------------


def test_queues_are_looked_up(app: Kernel) -> None:
    queues = app.amqp.queues
    assert list(queues) == ["celery", "eu"]
    assert (len(queues), "eu" in queues, "made" in queues) == (2, True, False)
    assert queues["europe"] is queues["eu"]
    assert queues["made"].exchange == Exchange("made")
    assert app.amqp.default_queue.name == "celery"
    assert app.amqp.default_exchange == Exchange("celery")
    app.conf.task_create_missing_queues = False
    with pytest.raises(KeyError, match="there is no queue 'europa'") as caught:
        queues["europa"]
    assert isinstance(caught.value, errors.QueueNotFound)


def test_queues_are_added(app: Kernel) -> None:
    queues = app.amqp.queues
    assert queues.add("us", exchange="mail", exchange_type="topic", routing_key="mail.us").exchange == MAIL
    queues.add(Queue("celery", Exchange("other"), "k"))
    assert {name: queue.home.name for name, queue in queues.items()} == {"eu": "mail", "us": "mail", "celery": "other"}
    assert place(app, "x", queue="us") == ("us", "mail", 0)
    assert consumed(app) == ["eu", "us", "celery"]
    with pytest.raises(errors.ImproperlyConfigured, match="unknown entry 'exchnage'"):
        queues.add("broken", exchnage="mail")


def test_what_is_selected_is_consumed(app: Kernel) -> None:
    queues = app.amqp.queues
    assert list(queues.consume_from) == ["celery", "eu"]
    queues.select("europe")
    assert list(queues.consume_from) == consumed(app) == ["eu"]
    assert consumed(app, "celery") == ["celery"]
    queues.select_add("more")
    assert consumed(app) == ["eu", "more"]
    queues.deselect(["eu"])
    assert consumed(app) == ["more"]
    with pytest.raises(errors.ImproperlyConfigured, match="no queue is left"):
        queues.deselect("more")
    queues.select([])
    assert set(consumed(app)) == {"celery", "eu", "more"}


# --- the router ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name", "found"),
    [
        ({}, "x", {"queue": "celery"}),
        ({}, "feed.new", {"queue": "eu"}),
        ({"priority": 1}, "video", {"queue": "media", "priority": 1}),
        ({"queue": "eu"}, "video", {"queue": "eu", "priority": 7}),
        ({"exchange": "mail", "routing_key": "k"}, "x", {"exchange": "mail", "routing_key": "k"}),
    ],
)
def test_the_router_says_where_a_call_would_go(
    app: Kernel, options: dict[str, Any], name: str, found: dict[str, Any]
) -> None:
    answer = app.amqp.router.route(options, name, (), {})
    if "queue" in answer:
        assert isinstance(answer["queue"], Queue)
        answer["queue"] = answer["queue"].name
    assert answer == found


def test_routes_that_were_changed_in_place_are_read_again(app: Kernel) -> None:
    assert app.amqp.router.lookup_route("feed.x") == {"queue": "eu"}
    assert app.amqp.router.lookup_route("x") is None
    assert place(app, "late")[0] == "celery"
    app.conf.task_routes["late"] = "eu"
    app.amqp.flush_routes()
    assert place(app, "late") == ("eu", "mail", 0)
    assert len(app.amqp.routes) == 1


# --- options of a call --------------------------------------------------------------------------------------


class Elsewhere:
    def route(self, options: Mapping[str, Any], *what: Any) -> dict[str, Any]:
        self.asked = (dict(options), *what)
        return {"priority": 9, **options, "queue": "there"}


def test_a_call_names_its_router(app: Kernel) -> None:
    router = Elsewhere()
    assert place(app, "video", router=router, priority=2) == ("there", "", 2)
    assert router.asked == ({"priority": 2}, "video", (), {}, None)
    assert place(app, "video", router=router) == ("there", "", 9)
    assert place(app, "video", router=app.amqp.router) == ("media", "", 7)


def test_what_follows_a_call_is_not_for_its_router_to_leave_out(app: Kernel) -> None:
    class Short:
        def route(self, options: Mapping[str, Any], *what: Any) -> dict[str, Any]:
            return {"queue": "there"}

    follower = app.signature("after")
    app.send_task("x", router=Short(), link=follower, headers={"a": 1}, time_limit=5, priority=3, exchange="mail")
    (message,) = app.broker.peek("there", 1)
    assert [each["task"] for each in json.loads(message.body)[2]["callbacks"]] == ["after"]
    assert (message.headers["a"], message.headers["timelimit"], message.priority) == (1, [5, None], 0)


def test_a_call_goes_as_one_of_another_name_or_task(app: Kernel) -> None:
    @app.task(name="own", queue="eu", priority=3)
    def own() -> None: ...

    assert place(app, "x", route_name="video") == ("media", "", 7)
    assert place(app, "own", route_name="video") == ("eu", "mail", 3)
    assert place(app, "x", task_type=own) == ("eu", "mail", 3)
    assert place(app, "x", task_type=own, queue="media") == ("media", "", 3)
    assert app.tasks["own"].apply_async(route_name="video", task_type=own, router=None).id


@pytest.mark.parametrize("router", ["path.to.router", lambda *args: {}, Elsewhere])
def test_what_is_no_router_is_told(app: Kernel, router: Any) -> None:
    with pytest.raises(TypeError, match="router"):
        app.send_task("x", router=router)
    assert app.broker.stats() == []


def test_in_eager_mode_nobody_is_asked(app: Kernel) -> None:
    router = Elsewhere()

    @app.task(name="here")
    def here() -> str:
        return "here"

    app.conf.task_always_eager = True
    assert here.apply_async(router=router, route_name="video").get() == "here"
    assert not hasattr(router, "asked")
