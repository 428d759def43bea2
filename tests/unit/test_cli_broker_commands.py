"""`kernel queues` and `kernel dead`, with a broker that only remembers what it was told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import pytest

from kernel.cli import exits, main
from kernel.errors import OperationalError
from kernel.interfaces.broker import DeadLetter, QueueStats
from kernel.message import Message

if TYPE_CHECKING:
    from kernel.app import Kernel


def message(task_id: str, task: str = "proj.add") -> Message:
    headers = {"id": task_id, "task": task, "argsrepr": "(2, 3)", "kwargsrepr": "{}", "retries": 0}
    return Message(headers, b"[[2, 3], {}, {}]", content_type="application/json", properties={"priority": 4})


class Broker:
    def __init__(self) -> None:
        self.told: list[Any] = []
        self.queues = [QueueStats("celery", 3, delayed=1, claimed=2, dead=1, oldest=90.0, consumers=1)]
        self.letters = [
            DeadLetter("a", "proj.add", "celery", "poison\nand more", time.time() - 60, 10, message("a")),
            DeadLetter("b", "proj.mail", "celery", "unknown", time.time() - 7200, 0, message("b", "proj.mail")),
        ]

    def stats(self, queues: Sequence[str] = ()) -> Sequence[QueueStats]:
        return [item for item in self.queues if not queues or item.name in queues]

    def purge(self, queue: str) -> int:
        self.told.append(("purge", queue))
        return 4

    def peek(self, queue: str, limit: int) -> Sequence[Message]:
        damaged = Message(b"[]", b"", content_type="x")
        return [message("m"), damaged][:limit] if queue == "celery" else []

    def pause(self, queue: str) -> None:
        self.told.append(("pause", queue))

    def resume(self, queue: str) -> None:
        self.told.append(("resume", queue))

    def dead_letters(self, queue: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        return [letter for letter in self.letters if queue in (None, letter.queue)][:limit]

    def retry_dead(self, ids: Iterable[str]) -> int:
        self.told.append(("retry", list(ids)))
        return sum(1 for letter in self.letters if letter.id in self.told[-1][1])

    def drop_dead(self, ids: Iterable[str]) -> int:
        self.told.append(("drop", list(ids)))
        return sum(1 for letter in self.letters if letter.id in self.told[-1][1])


class App:
    """As much of an app as these commands use."""

    def __init__(self) -> None:
        self.broker: Any = Broker()
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def run(app: App, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments, app=cast("Kernel", app))
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return call


def test_list_of_queues(run: Any, app: App) -> None:
    assert run("queues", "list") == (exits.OK, "celery\t3\t1\t2\t1\t1.5m\t1\topen\n", "")
    assert app.closed == 1
    data = json.loads(run("queues", "list", "--json")[1])
    assert data["schema"] == "queues.list/1"
    assert data["queues"][0]["ready"] == 3
    code, out, err = run("queues", "list", "absent")
    assert (code, out) == (exits.OK, "")
    assert "no queues" in err


def test_a_purge_is_confirmed(run: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("queues", "purge", "celery")
    assert code == exits.REFUSED
    assert "4 messages of the queue 'celery'" in err
    assert "--yes" in err
    assert run("queues", "purge", "celery", "--dry-run")[1] == "celery: 4 would be deleted\n"
    assert app.broker.told == []
    assert app.closed == 2
    assert run("queues", "purge", "celery", "--yes")[1] == "celery: 4 deleted\n"
    assert app.broker.told == [("purge", "celery")]


@pytest.mark.parametrize(("answer", "code"), [("celery", exits.OK), ("y", exits.REFUSED), ("", exits.REFUSED)])
def test_a_purge_asks_for_the_name(run: Any, app: App, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    monkeypatch.setattr("kernel.cli.confirm.sys.stdin", type("Terminal", (), {"isatty": lambda _self: True})())
    monkeypatch.setattr("click.prompt", lambda *_, **__: answer)
    assert run("queues", "purge", "celery")[0] == code
    assert bool(app.broker.told) is (code == exits.OK)


def test_pause_and_resume(run: Any, app: App) -> None:
    assert run("queues", "pause", "a", "b")[1] == "a: paused\nb: paused\n"
    assert json.loads(run("queues", "resume", "a", "--json")[1]) == {"schema": "queues.resume/1", "resumed": ["a"]}
    assert app.broker.told == [("pause", "a"), ("pause", "b"), ("resume", "a")]


def test_peek(run: Any) -> None:
    lines = run("queues", "peek", "celery")[1].splitlines()
    assert lines[0] == "m\tproj.add\t(2, 3)\t{}\t4\t-"
    assert "JSON list" in lines[1]
    assert json.loads(run("queues", "peek", "celery", "--json", "-n", "1")[1])["messages"][0]["id"] == "m"
    assert "Nothing waits" in run("queues", "peek", "empty")[2]
    assert run("queues", "peek", "celery", "--limit", "0")[0] == exits.USAGE


def test_list_of_dead_letters(run: Any) -> None:
    code, out, _ = run("dead", "list")
    assert code == exits.OK
    assert out.splitlines()[0] == "a\tproj.add\tcelery\t10\t1.0m\tpoison and more"
    assert [line.split("\t")[0] for line in run("dead", "list", "--task", "proj.mail")[1].splitlines()] == ["b"]
    out = run("dead", "list", "-n", "1", "--json")[1]
    assert [item["id"] for item in json.loads(out)["dead"]] == ["a"]
    assert "newest 1" in run("dead", "list", "-n", "1")[2]


def test_one_dead_letter(run: Any) -> None:
    code, out, _ = run("dead", "show", "a")
    assert code == exits.OK
    assert "reason:       poison" in out
    assert "  argsrepr: '(2, 3)'" in out
    assert json.loads(run("dead", "show", "a", "--json")[1])["dead"][0]["headers"]["task"] == "proj.add"
    code, out, err = run("dead", "show", "absent")
    assert (code, out) == (exits.FAILED, "")
    assert "'absent'" in err


def test_retrying_dead_letters(run: Any, app: App) -> None:
    assert run("dead", "retry", "a", "a")[:2] == (exits.OK, "1 dead letter retried\n")
    assert run("dead", "retry", "--all", "--task", "proj.mail")[1] == "1 dead letter retried\n"
    assert app.broker.told == [("retry", ["a"]), ("retry", ["b"])]
    code, out, err = run("dead", "retry", "absent")
    assert (code, out) == (exits.FAILED, "0 dead letters retried\n")
    assert "not among the dead letters" in err


@pytest.mark.parametrize("arguments", [[], ["a", "--all"], ["a", "--queue", "celery"]])
def test_which_dead_letters_must_be_said_once(run: Any, app: App, arguments: list[str]) -> None:
    assert run("dead", "retry", *arguments)[0] == exits.USAGE
    assert run("dead", "drop", "--yes", *arguments)[0] == exits.USAGE
    assert app.broker.told == []


def test_dropping_dead_letters(run: Any, app: App) -> None:
    code, _, err = run("dead", "drop", "--all")
    assert code == exits.REFUSED
    assert "2 dead letters" in err
    assert run("dead", "drop", "--all", "--dry-run")[1] == "2 dead letters would be dropped\n"
    assert app.broker.told == []
    assert json.loads(run("dead", "drop", "--all", "--yes", "--json")[1])["dropped"] == 2
    assert app.broker.told == [("drop", ["a", "b"])]


def test_a_broker_that_is_away(run: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(queues: Sequence[str] = ()) -> Sequence[QueueStats]:
        raise OperationalError("cannot reach host:1")

    monkeypatch.setattr(app.broker, "stats", away)
    assert run("queues", "list") == (exits.UNREACHABLE, "", "Error: cannot reach host:1\n")
    assert app.closed == 1
