"""Calls that one system sends and the other runs: arguments, options, retries, links, exceptions, states."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pytest

from tests.interop.conftest import SHARED, Fleet, Way
from tests.interop.parties import wait_for

PLAIN = {"text": "žluť \U0001f600", "list": [1, 2.5, None, True, {"deep": [[]]}], "empty": {}, "large": 2**53}
JSON_TYPES = {
    "moment": datetime(2026, 11, 21, 1, 57, 37, 23282, tzinfo=UTC),
    "day": date(2026, 2, 28),
    "price": Decimal("12.50"),
    "id": uuid.UUID("a5f9f5a4-3c0b-4b8d-9c5b-7f0f0c2a7d11"),
    "bytes": b"\xff\x00raw",
}
PICKLED = {"set": {1, 2}, "complex": 1j, "tuple": (1, (2,))}


def test_positional_and_keyword_arguments_arrive(way: Way) -> None:
    task = way.sender.send("shop.echo", 1, "two", kwargs=PLAIN, queue=way.runner.queue)
    assert way.sender.get(task) == {"side": way.runner.name, "args": [1, "two"], "kwargs": PLAIN}


@pytest.mark.parametrize(
    ("serializer", "kwargs"),
    [
        ("json", PLAIN | JSON_TYPES),
        ("yaml", PLAIN | {"moment": JSON_TYPES["moment"], "day": JSON_TYPES["day"]}),
        ("msgpack", PLAIN),
        ("pickle", PLAIN | {"moment": JSON_TYPES["moment"], "price": JSON_TYPES["price"]}),
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_serializer_that_both_know(way: Way, serializer: str, kwargs: Any, compression: str | None) -> None:
    options = {"serializer": serializer, "compression": compression}
    task = way.sender.send("shop.echo", kwargs=kwargs, queue=way.runner.queue, **options)
    assert way.sender.get(task) == {"side": way.runner.name, "args": [], "kwargs": kwargs}


@pytest.mark.parametrize("compression", ["zlib", "gzip", "bzip2", "zstd", "lzma", "brotli"])
def test_every_compression_that_both_know(way: Way, compression: str) -> None:
    text = "long enough to be worth it " * 50
    task = way.sender.send("shop.echo", text, queue=way.runner.queue, compression=compression)
    assert way.sender.get(task)["args"] == [text]


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_large_arguments_and_results(way: Way, size: int) -> None:
    text = "x" * size
    task = way.sender.send("shop.echo", text, queue=way.runner.queue)
    assert way.sender.get(task)["args"] == [text]


def test_what_celery_sends_in_its_first_protocol_runs(fleet: Fleet) -> None:
    fleet.theirs.configure("first", task_protocol=1)
    task = fleet.theirs.send("shop.echo", 1, "two", kwargs=PLAIN, app="first", queue=fleet.ours.queue)
    assert fleet.theirs.get(task, app="first") == {"side": "kernel", "args": [1, "two"], "kwargs": PLAIN}
    due = datetime.now(UTC) + timedelta(seconds=1.5)
    task = fleet.theirs.send("shop.about", app="first", queue=fleet.ours.queue, eta=due, time_limit=50)
    facts = fleet.theirs.get(task, app="first")
    # Half a second is not worth another way through the server.
    assert facts["at"] >= due.timestamp() - 0.51
    assert facts["timelimit"] == [50, None]


def test_what_of_the_first_protocol_cannot_be_read_is_kept(fleet: Fleet) -> None:
    fleet.theirs.configure("first", task_protocol=1)
    broker = fleet.ours.app.broker
    before = len(broker.dead_letters(fleet.ours.queue))
    fleet.theirs.send("shop.about", 1, app="first", queue=fleet.ours.queue, serializer="pickle")
    wait_for(lambda: len(broker.dead_letters(fleet.ours.queue)) > before, fleet.logs)
    assert "header 'id'" in broker.dead_letters(fleet.ours.queue)[0].reason


def test_stamps_of_celery_arrive(fleet: Fleet) -> None:
    task = fleet.theirs.send("shop.about", queue=fleet.ours.queue, stamped_headers=["tenant"], tenant="acme")
    facts = fleet.theirs.get(task)
    assert (facts["stamped_headers"], facts["stamps"]) == (["tenant"], {"tenant": "acme"})


def test_what_a_task_knows_of_itself(way: Way) -> None:
    headers = {"tenant": "acme", "depth": {"of": [1, 2]}}
    task = way.sender.send(
        "shop.about", 1, queue=way.runner.queue, headers=headers, priority=6, shadow="shop.seen", time_limit=50,
        soft_time_limit=40, expires=600,
    )  # fmt: skip
    facts = way.sender.get(task)
    expires = datetime.fromisoformat(facts["expires"])
    assert timedelta(seconds=500) < expires - datetime.now(UTC) < timedelta(seconds=601)
    expected = {
        "side": way.runner.name,
        "id": task,
        "task": "shop.about",
        "root_id": task,
        "parent_id": None,
        "correlation_id": task,
        "retries": 0,
        "eta": None,
        "timelimit": [50, 40],
        "group": None,
        "group_index": None,
        "argsrepr": "(1,)",
        "kwargsrepr": "{}",
        "shadow": "shop.seen",
        "priority": 6,
        "routing_key": way.runner.queue,
    }
    assert {name: facts[name] for name in expected} == expected
    assert {name: facts["headers"][name] for name in headers} == headers


@pytest.mark.parametrize("how", ["countdown", "eta", "eta elsewhere"])
def test_nothing_runs_before_it_is_due(way: Way, how: str) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.8)
    options: dict[str, Any] = {"countdown": 0.8} if how == "countdown" else {"eta": due}
    if how == "eta elsewhere":
        from zoneinfo import ZoneInfo

        options = {"eta": due.astimezone(ZoneInfo("Asia/Kolkata"))}
    task = way.sender.send("shop.about", queue=way.runner.queue, **options)
    facts = way.sender.get(task)
    assert facts["at"] >= due.timestamp() - 0.01
    assert abs(datetime.fromisoformat(facts["eta"]) - due) < timedelta(seconds=0.5)


@pytest.mark.parametrize("priority", [0, 3, 9])
def test_every_priority_is_worked_off(way: Way, priority: int) -> None:
    task = way.sender.send("shop.about", queue=way.runner.queue, priority=priority)
    assert way.sender.get(task)["priority"] == priority


def test_what_has_expired_is_not_run(way: Way) -> None:
    key = uuid.uuid4().hex
    late = datetime.now(UTC) - timedelta(seconds=5)
    task = way.sender.send("shop.mark", key, queue=way.runner.queue, expires=late)
    module, name, *_ = way.sender.error(task)
    assert name == "TaskRevokedError"
    assert module == ("celery.exceptions" if way.sender.name == "celery" else "kernel.errors")
    assert way.fleet.notes("mark", way.runner.name, key) == []


def wait_for_state(way: Way, task: str, state: str) -> None:
    def found() -> str:
        return str(way.sender.look(task)["state"])

    wait_for(lambda: found() == state, lambda: f"{way.fleet.logs()}\n{task} is {found()}, not {state}")


# Seconds. Celery publishes a retry and stores RETRY then, which would replace a SUCCESS of the other side that came in
# between: its Redis backend reads a record and writes it in two steps.
PAUSE: Final = 0.2


class TestRetries:
    def test_a_retry_goes_on_where_it_is_asked_for(self, way: Way) -> None:
        """There and back again: each run is asked for by the side that the next one is not on."""
        queues = [way.runner.queue, way.sender.queue]
        names = [way.runner.name, way.sender.name]
        task = way.sender.send("shop.hop", 4, queues, [], PAUSE, queue=way.runner.queue)
        assert way.sender.get(task) == [f"{names[number % 2]}:{number}" for number in range(5)]

    def test_a_retry_with_a_countdown_goes_over(self, way: Way) -> None:
        queues = [way.runner.queue, way.sender.queue]
        sent = time.time()
        task = way.sender.send("shop.hop", 2, queues, [], 0.3, queue=way.runner.queue)
        assert len(way.sender.get(task)) == 3
        assert time.time() - sent >= 0.6

    def test_on_a_shared_queue_whoever_is_free_goes_on(self, way: Way) -> None:
        ids = [way.sender.send("shop.hop", 3, [SHARED], [], PAUSE, queue=SHARED) for _ in range(5)]
        for task in ids:
            assert [run.partition(":")[2] for run in way.sender.get(task)] == ["0", "1", "2", "3"]

    def test_the_last_exception_ends_it(self, way: Way) -> None:
        task = way.sender.send("shop.stubborn", queue=way.runner.queue)
        assert way.sender.error(task)[:3] == ("bodies", "ShopError", ["never", 2])

    def test_the_state_in_between(self, way: Way) -> None:
        task = way.sender.send("shop.later", 1.0, queue=way.runner.queue)
        if way.fleet.readable:
            wait_for_state(way, task, "RETRY")
            for side in (way.sender, way.runner):
                assert side.look(task)["result"][:3] == ("bodies", "ShopError", ["not yet", 1])
            assert way.sender.get(task) == way.runner.name
            return
        seen = way.sender.watch(task)
        (retry,) = (value for state, value in seen if state == "RETRY")
        # Celery hands out what arrived as it is.
        as_data = {"exc_type": "ShopError", "exc_message": ["not yet", 1], "exc_module": "bodies"}
        assert retry == as_data or retry[:3] == ("bodies", "ShopError", ["not yet", 1])
        assert seen[-1] == ("SUCCESS", way.runner.name)


class TestLinks:
    def test_a_link_gets_the_result_and_runs_on_the_other_side(self, way: Way) -> None:
        key = uuid.uuid4().hex
        link = {"task": "shop.noted", "args": (key,), "queue": way.sender.queue}
        task = way.sender.send("shop.add", 2, 3, queue=way.runner.queue, link=[link])
        assert way.sender.get(task) == 5
        assert way.fleet.wait_for_note("noted", way.sender.name, "5") == [key]

    def test_an_immutable_link_gets_nothing(self, way: Way) -> None:
        key = uuid.uuid4().hex
        link = {"task": "shop.noted", "args": (key,), "queue": way.sender.queue, "immutable": True}
        way.sender.send("shop.add", 2, 3, queue=way.runner.queue, link=[link])
        assert way.fleet.wait_for_note("noted", way.sender.name, key) == []

    def test_links_know_where_they_come_from(self, way: Way) -> None:
        link = {"task": "shop.about", "queue": way.sender.queue}
        task = way.sender.send("shop.add", 2, 3, queue=way.runner.queue, link=[link])
        assert way.sender.get(task) == 5
        if not way.fleet.readable:
            return
        (child,) = way.sender.look(task)["children"]
        facts = way.sender.get(child)
        expected = {"side": way.sender.name, "args": [5], "parent_id": task, "root_id": task, "id": child}
        assert {name: facts[name] for name in expected} == expected

    def test_an_errback_of_one_argument_is_a_task_of_its_own(self, way: Way) -> None:
        errback = {"task": "shop.old_errback", "queue": way.sender.queue}
        task = way.sender.send("shop.fail", "value", queue=way.runner.queue, link_error=[errback])
        assert way.sender.error(task)[1] == "ValueError"
        assert way.fleet.wait_for_note("old", way.sender.name, task) == [task]

    def test_an_errback_of_three_is_called_where_the_task_failed(self, way: Way) -> None:
        task = way.sender.send("shop.fail", "key", queue=way.runner.queue, link_error=[{"task": "shop.new_errback"}])
        assert way.sender.error(task)[1] == "KeyError"
        assert way.fleet.wait_for_note("new", way.runner.name, task) == ["KeyError"]


class TestExceptions:
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("value", ("builtins", "ValueError", ["no such thing", 7], "('no such thing', 7)")),
            ("key", ("builtins", "KeyError", ["žluť"], "'žluť'")),
            ("shop", ("bodies", "ShopError", ["sold out", 404], "('sold out', 404)")),
            ("nested", ("bodies", "Outer.Nested", ["inside"], "inside")),
            ("bare", ("builtins", "RuntimeError", [], "")),
        ],
    )
    def test_an_exception_comes_back_as_itself(self, way: Way, kind: str, expected: Any) -> None:
        task = way.sender.send("shop.fail", kind, queue=way.runner.queue)
        assert way.sender.error(task) == expected

    def test_one_that_opens_files(self, way: Way) -> None:
        task = way.sender.send("shop.fail", "file", queue=way.runner.queue)
        module, name, args, _ = way.sender.error(task)
        assert (module, name, args) == ("builtins", "FileNotFoundError", [2, "No such file or directory"])

    def test_one_that_its_class_does_not_make_again_keeps_its_text(self, way: Way) -> None:
        task = way.sender.send("shop.fail", "wrapping", queue=way.runner.queue)
        assert "5: wrapped" in way.sender.error(task)[3]

    def test_arguments_that_cannot_be_sent_come_as_text(self, way: Way) -> None:
        task = way.sender.send("shop.fail", "lock", queue=way.runner.queue)
        assert way.sender.error(task)[:3] == ("bodies", "ShopError", ["cannot be sent", "<class 'object'>"])


class TestStates:
    def test_started_and_a_state_of_the_users(self, way: Way) -> None:
        paths = [way.fleet.folder / uuid.uuid4().hex for _ in range(2)]
        task = way.sender.send("shop.progress", *map(str, paths), queue=way.runner.queue)
        if not way.fleet.readable:
            for path in paths:
                path.touch()
            seen = way.sender.watch(task)
            assert [state for state, _ in seen] == ["STARTED", "PROGRESS", "SUCCESS"]
            assert seen[1][1] == {"done": 3, "of": 7}
            return
        wait_for_state(way, task, "STARTED")
        for side in (way.sender, way.runner):
            assert set(side.look(task)["result"]) == {"pid", "hostname"}
        paths[0].touch()
        wait_for_state(way, task, "PROGRESS")
        for side in (way.sender, way.runner):
            assert side.look(task)["result"] == {"done": 3, "of": 7}
        paths[1].touch()
        for side in (way.sender, way.runner):
            assert side.get(task) == way.runner.name

    def test_a_result_that_is_ignored_is_kept_by_nobody(self, way: Way) -> None:
        key = uuid.uuid4().hex
        task = way.sender.send("shop.noted", key, queue=way.runner.queue, ignore_result=True)
        way.fleet.wait_for_note("noted", way.runner.name, key)
        # What comes behind it on the same queue has ended, so it would have been stored by now.
        assert way.sender.get(way.sender.send("shop.add", 1, 1, queue=way.runner.queue)) == 2
        if way.fleet.readable:
            assert way.sender.look(task)["state"] == "PENDING"

    @pytest.mark.parametrize("how", ["ignore", "reject"])
    def test_a_task_that_gives_up_stores_what_its_side_does(self, way: Way, how: str) -> None:
        task = way.sender.send("shop.give_up", how, queue=way.runner.queue)
        assert way.sender.get(way.sender.send("shop.add", 1, 1, queue=way.runner.queue)) == 2
        if not way.fleet.readable:
            return
        if how == "ignore":
            wait_for_state(way, task, "STARTED")
        elif way.runner.name == "kernel":
            # The message is kept as a dead letter, and whoever waits for it is told. Celery may or may not do so.
            wait_for_state(way, task, "FAILURE")

    def test_either_side_forgets(self, way: Way, fleet: Fleet) -> None:
        if not fleet.readable:
            pytest.skip("a reply has one reader")
        task = way.sender.send("shop.add", 1, 1, queue=way.runner.queue)
        assert way.sender.get(task) == 2
        way.runner.forget(task)
        assert way.runner.look(task)["state"] == "PENDING"

    def test_both_read_the_same_of_an_extended_result(self, way: Way, fleet: Fleet) -> None:
        if not fleet.readable:
            pytest.skip("a reply has one reader")
        task = way.sender.send("shop.echo", 1, kwargs={"a": "b"}, queue=way.runner.queue)
        value = way.sender.get(task)
        assert way.runner.get(task) == value
        looks = [side.look(task) for side in (way.sender, way.runner)]
        assert looks[0]["date_done"] == looks[1]["date_done"]
        worker = "theirs@" if way.runner is fleet.theirs else "ours@"
        for look in looks:
            assert look.pop("worker").startswith(worker)
            assert abs(datetime.fromisoformat(look.pop("date_done")) - datetime.now(UTC)) < timedelta(seconds=60)
        expected = {
            "state": "SUCCESS", "result": value, "traceback": None, "children": None, "parent_id": None,
            "name": "shop.echo", "args": [1], "kwargs": {"a": "b"}, "retries": 0, "queue": way.runner.queue,
        }  # fmt: skip
        for look in looks:
            assert {**look, "children": look["children"] or None} == expected

    def test_a_failure_reads_the_same_on_both_sides(self, way: Way, fleet: Fleet) -> None:
        if not fleet.readable:
            pytest.skip("a reply has one reader")
        task = way.sender.send("shop.fail", "shop", queue=way.runner.queue)
        assert way.sender.error(task) == way.runner.error(task)
        for side in (way.sender, way.runner):
            found = side.look(task)
            assert found["state"] == "FAILURE"
            assert "ShopError" in found["traceback"]


class TestCanvasOfCelery:
    """A chain and a group are messages like others, whoever runs their parts."""

    def test_a_chain_across_both(self, fleet: Fleet) -> None:
        ids = fleet.theirs.ask(
            "chain",
            {"task": "shop.add", "args": (1, 2), "queue": fleet.ours.queue},
            {"task": "shop.add", "args": (10,), "queue": fleet.theirs.queue},
            {"task": "shop.about", "queue": fleet.ours.queue},
        )
        facts = fleet.theirs.get(ids[-1])
        expected = {"side": "kernel", "args": [13], "parent_id": ids[1], "root_id": ids[0]}
        assert {name: facts[name] for name in expected} == expected

    def test_a_group_across_both(self, fleet: Fleet) -> None:
        group, values = fleet.theirs.ask(
            "group", *({"task": "shop.about", "queue": each.queue} for each in (fleet.ours, fleet.theirs)), timeout=20
        )
        assert [(facts["side"], facts["group"], facts["group_index"]) for facts in values] == [
            ("kernel", group, 0),
            ("celery", group, 1),
        ]
