"""The commands on a real broker: the embedded default, one SQLite file."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel import Kernel
from kernel.cli import exits, main
from kernel.interfaces.broker import ConsumeOptions, Settlement, Verdict

pytest.importorskip("kernel_broker_sql")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERNEL_BROKER_URL", f"sqlite:///{tmp_path}/tasks.db")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return call


def test_from_the_call_to_the_purge(run: Run) -> None:
    code, out, err = run("call", "proj.add", "-a", "[2, 3]")
    assert (code, err) == (exits.OK, "")
    task_id = out.strip()
    run("call", "proj.add", "-a", "[4, 5]", "--countdown", "1h")
    run("call", "proj.add", "-Q", "other")
    queues = {item["name"]: item for item in json.loads(run("queues", "list", "--json")[1])["queues"]}
    assert {name: (item["ready"], item["delayed"]) for name, item in queues.items()} == {
        "celery": (1, 1),
        "other": (1, 0),
    }
    peeked = json.loads(run("queues", "peek", "celery", "--json")[1])["messages"]
    assert (peeked[0]["id"], peeked[0]["task"], peeked[0]["args"]) == (task_id, "proj.add", "(2, 3)")
    run("queues", "pause", "celery")
    assert "paused" in run("queues", "list", "celery")[1]
    run("queues", "resume", "celery")
    assert "paused" not in run("queues", "list", "celery")[1]
    assert run("queues", "purge", "celery", "--yes")[1] == "celery: 2 deleted\n"
    assert [item["ready"] for item in json.loads(run("queues", "list", "celery", "--json")[1])["queues"]] in ([0], [])


def kill(reason: str) -> None:
    """Make a dead letter of the message that waits."""
    with Kernel("test") as app:
        consumer = app.broker.consume(["celery"], ConsumeOptions("a test"))
        deliveries = consumer.fetch(10, 1 << 20, 5.0)
        assert len(deliveries) == 1
        consumer.settle([Settlement(deliveries[0], Verdict.DEAD, reason=reason)])
        consumer.close()


def test_the_life_of_a_dead_letter(run: Run) -> None:
    task_id = run("call", "proj.add", "-a", "[2, 3]")[1].strip()
    kill("it was not meant to be")
    assert run("dead", "list")[1].split("\t")[0] == task_id
    shown = run("dead", "show", task_id)[1]
    assert "it was not meant to be" in shown
    assert "proj.add" in shown
    assert run("dead", "retry", task_id)[:2] == (exits.OK, "1 dead letter retried\n")
    assert run("dead", "list")[:2] == (exits.OK, "")
    assert json.loads(run("queues", "peek", "celery", "--json")[1])["messages"][0]["id"] == task_id
    kill("again")
    assert run("dead", "drop", task_id, "--yes")[:2] == (exits.OK, "1 dead letter dropped\n")
    assert run("dead", "drop", task_id, "--yes")[:2] == (exits.FAILED, "0 dead letters dropped\n")


def test_without_a_result_backend_the_command_says_so(run: Run) -> None:
    code, out, err = run("result", "some-id")
    assert (code, out) == (exits.USAGE, "")
    assert "No result backend" in err


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("nonsense://x", exits.USAGE, "no broker driver 'nonsense'"),
        ("amqp://127.0.0.1:9//", exits.UNREACHABLE, "cannot connect"),
        ("sqlite:////dev/null/x.db", exits.USAGE, "/dev/null"),
    ],
)
def test_a_broker_that_cannot_be_had(run: Run, url: str, code: int, words: str) -> None:
    found, out, err = run("-b", url, "queues", "list")
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert found == code


def test_a_server_that_is_away(run: Run) -> None:
    pytest.importorskip("psycopg")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        port = taken.getsockname()[1]
        code, out, err = run("-b", f"postgresql://me:hush@127.0.0.1:{port}/x", "queues", "list")
    assert (code, out) == (exits.UNREACHABLE, "")
    assert str(port) in err
    assert "hush" not in err
