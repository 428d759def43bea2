"""Exchanges, copies for everyone and queues of one worker, with two workers of processes on each broker."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel import errors
from kernel.interfaces.broker import ConsumeOptions, Delivery, Settlement, Verdict
from kernel.routing.topology import worker_direct
from kernel.testing.servers import redis_server
from kernel.testing.workers import Project, WorkerProcess, project_in, wait_for

TIMEOUT = 60.0
TASKS = '''
from kernel import Broadcast, Exchange, Queue

mail, news = Exchange("mail", "topic"), Exchange("news", "fanout")
app.conf.update(
    task_queues=[
        Queue("celery"),
        Queue("eu", mail, "mail.eu.#"),
        Queue("post", mail, "mail.#"),
        Queue("left", Exchange("parcels"), "left"),
        Queue("right", Exchange("parcels"), "right"),
        Queue("one", news),
        Queue("two", news),
        Broadcast("all"),
        Queue("ranked", max_priority=10),
    ],
    task_routes={
        "proj.letter": {"queue": "eu", "routing_key": "mail.eu.de"},
        "proj.parcel": {"exchange": "parcels", "routing_key": "right"},
        "proj.paper": "one",
        "proj.shout": "all",
        "proj.routed": {"queue": "ranked", "priority": 6},
    },
    task_annotations={"proj.shout": {"ignore_result": True}},
    worker_direct=True,
    task_default_priority=1,
    task_create_missing_queues=False,
)


def where(self, key):
    """Which queue it came from, whatever the machine is called."""
    queue, node = self.request.queue, self.request.hostname
    note(queue.replace(node, node.partition("@")[0]), key)
    return key


@app.task(bind=True, name="proj.sent", max_retries=1)
def sent(self, queue=None):
    info = self.request.delivery_info
    if self.request.retries == 0:
        raise self.retry(countdown=0, queue=queue)
    return [info["exchange"], info["routing_key"], self.request.queue]


for name in ("plain", "letter", "parcel", "paper", "shout"):
    app.task(bind=True, name="proj." + name)(where)


app.task(bind=True, name="proj.routed")(where)
app.task(bind=True, name="proj.urgent", priority=9)(where)


@app.task
def asks(key):
    app.send_task("proj.letter", (key,), routing_key="mail.us")
    return "answer-" + key
'''


@pytest.fixture(scope="module", params=["sqlite", "redis", "amqp"])
def project(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder: Path = tmp_path_factory.mktemp("routing")
    with contextlib.ExitStack() as stack:
        settings: dict[str, str] = {}
        if request.param == "redis":
            url = stack.enter_context(redis_server()).url
            settings = {"broker": url, "backend": url}
        elif request.param == "amqp":
            url = request.getfixturevalue("kernel_rabbitmq").add_vhost()
            settings = {"broker": url, "backend": "rpc://"}
        project = stack.enter_context(project_in(folder / "p", tasks=TASKS, **settings))
        first = stack.enter_context(WorkerProcess(project, "-c", "1", "-X", "post,ranked", "-n", "first@%h"))
        stack.enter_context(WorkerProcess(project, "-c", "1", "-Q", "post,all", "-n", "second@%h"))
        project.hostname = first.log.partition("kernel worker ")[2].split()[0]  # type: ignore[attr-defined]
        yield project


def take(project: Project, *keys: str) -> Counter[tuple[str, str]]:
    return Counter((note.word, note.key) for note in project.notes() if note.key in keys)


def test_messages_go_where_they_are_to_go(project: Project) -> None:
    send = project.app.send_task
    redis = "redis" in str(project.app.conf.broker_url)
    expected = {
        "a": ["celery"],
        "b": ["eu", "post"],
        "c": ["post"],
        "d": ["right"],
        "e": ["left"],
        # On Redis a fanout is heard by who is there: each queue of each worker has its copy.
        "f": ["bcast.first.one", "bcast.first.two"] if redis else ["one", "two"],
        "g": ["bcast.first.all", "bcast.second.all"],
        "h": ["bcast.first.all", "bcast.second.all"],
        "i": ["first.dq2"],
        "answer-j": ["eu", "post"],
        "j": ["post"],
        "l": ["eu", "post"],
    }
    send("proj.plain", ("a",))
    send("proj.letter", ("b",))
    send("proj.letter", ("c",), routing_key="mail.us")
    send("proj.parcel", ("d",))
    send("proj.parcel", ("e",), routing_key="left")
    send("proj.paper", ("f",))
    send("proj.shout", ("g",))
    send("proj.shout", ("h",), countdown=0.5)
    send("proj.plain", ("i",), queue=worker_direct(project.hostname))  # type: ignore[attr-defined]
    project.task("asks").apply_async(("j",), link=project.app.signature("proj.letter"))
    send("proj.letter", ("l",), countdown=0.5)
    wanted = Counter((queue, key) for key, queues in expected.items() for queue in queues)
    wait_for(lambda: not wanted - take(project, *expected), TIMEOUT, lambda: str(wanted - take(project, *expected)))
    assert take(project, *expected) == wanted


def test_the_whole_of_a_result_is_there(project: Project) -> None:
    result = project.task("letter").apply_async(("k",), routing_key="mail.us")
    assert result.get(timeout=TIMEOUT) == "k"
    assert take(project, "k") == {("post", "k"): 1}


def test_a_task_knows_where_it_was_sent_to_and_a_retry_does_not_go_there(project: Project) -> None:
    sent = project.task("sent")
    result = sent.apply_async(exchange="mail", routing_key="mail.us", countdown=0.1)
    assert result.get(timeout=TIMEOUT) == ["mail", "mail.us", "post"]
    assert sent.delay().get(timeout=TIMEOUT) == ["", "celery", "celery"]
    result = sent.apply_async(("celery",), exchange="mail", routing_key="mail.us")
    assert result.get(timeout=TIMEOUT) == ["", "celery", "celery"]


def test_what_goes_nowhere_is_refused_and_told(project: Project) -> None:
    with pytest.raises(errors.PublishRefused, match="'mail' with routing key 'parcel'"):
        project.app.send_task("proj.letter", ("z",), routing_key="parcel")
    with pytest.raises(errors.PublishRefused, match="'nowhere'"):
        project.app.send_task("proj.letter", ("z",), exchange="nowhere", routing_key="k")
    with pytest.raises(errors.QueueNotFound, match="no queue 'other'"):
        project.app.send_task("proj.letter", ("z",), queue="other")
    assert take(project, "z") == {}


def test_priorities_of_settings_routes_tasks_and_calls(project: Project) -> None:
    app = project.app
    project.task("plain").apply_async(("m",), queue="ranked")
    project.task("plain").apply_async(("n",), queue="ranked", priority=4)
    project.task("urgent").apply_async(("o",), queue="ranked")
    project.task("routed").apply_async(("p",))
    wait_for(lambda: app.broker.stats(["ranked"])[0].ready == 4, TIMEOUT)
    consumer = app.broker.consume(["ranked"], ConsumeOptions(owner="test"))
    taken: list[Delivery] = []

    def take_all() -> bool:
        taken.extend(consumer.fetch(10, 1 << 20, 0.5))
        return len(taken) == 4

    wait_for(take_all, TIMEOUT)
    found = [delivery.message.priority for delivery in taken]
    assert found == ([1, 4, 6, 9] if app.broker.capabilities.low_first else [9, 6, 4, 1])
    consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in taken])
    consumer.close()
