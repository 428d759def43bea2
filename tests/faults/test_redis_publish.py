"""On Redis: what a caller is told of a publish is true. Cases P1, P2, P3, P5, P6, P7, P8 and the durability of R2."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kernel_broker_redis import RedisBroker

from kernel import errors
from kernel.interfaces.broker import BrokerConfig, PublishState
from kernel.message import Message, Publication
from kernel.testing.proxy import CUT, DOWN, HOLD, LOSE, Proxy
from kernel.testing.servers import RedisProcess, redis_server
from kernel.testing.workers import WorkerProcess
from tests.faults.fleet import LINE, Rounds
from tests.faults.oracle import judge
from tests.faults.redis_fleet import client_of, redis_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def server(empty_redis: RedisProcess) -> RedisProcess:
    return empty_redis


def message(number: int, size: int = 0) -> Publication:
    body = b'[["%s"], {}, {}]' % (b"x" * size)
    return Publication(Message({"id": f"id-{number}.", "task": "t"}, body, content_type="application/json"), "q")


def publish(broker: RedisBroker, number: int, size: int = 0) -> bool:
    """Whether it was reported as stored."""
    try:
        (outcome,) = broker.publish([message(number, size)])
    except errors.OperationalError:
        return False
    return outcome.state is PublishState.STORED


def present(server: RedisProcess) -> set[int]:
    with client_of(server) as client:
        found = b"".join(client.lrange("q", 0, -1))
    return {int(number) for number in re.findall(rb"id-(\d+)\.", found)}


@pytest.fixture
def line(server: RedisProcess) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


@pytest.mark.case("P1", "P2", note="stored twice under one id: run once where the first one's record is there in time")
@pytest.mark.parametrize("action", [CUT, LOSE], ids=["before it arrives", "before the answer arrives"])
def test_a_publish_is_cut_off(
    tmp_path: Path, server: RedisProcess, line: Proxy, tally: Tally, rounds: Rounds,
    monkeypatch: pytest.MonkeyPatch, action: object,
) -> None:  # fmt: skip
    """`delay` sends it again, under the same id: none is missing, and what is there twice runs once if it has a
    result: one child, which stores what has ended before it looks for a record."""
    monkeypatch.setenv(LINE, line.url(server.url))
    with redis_project(tmp_path, server) as project:
        work = project.task("work")
        work.delay("warm")
        cuts, keys = rounds(20, 200), []
        for number in range(cuts * 5):
            if number % 5 == 0:
                # In its header `argsrepr`: whichever command carries it.
                trap = line.trap(f"('k{number}',)".encode(), action)  # type: ignore[arg-type]
            work.delay(f"k{number}")
            keys.append(f"k{number}")
            if number % 5 == 0:
                tally.runs += trap.hits
                line.heal()
        assert tally.runs == cuts
        monkeypatch.delenv(LINE)
        with WorkerProcess(project, "-c", "1", "-l", "WARNING"):
            judge(project, ["warm", *keys], tally, within=20 + cuts / 5)


@pytest.mark.case("P1", "P2")
def test_the_driver_tells_no_lie(server: RedisProcess, line: Proxy, tally: Tally, rounds: Rounds) -> None:
    """Without a second attempt: what is reported as stored is there, and what is not stored was not reported so."""
    broker = RedisBroker(BrokerConfig(url=line.url(server.url), timeout=1.0))
    broker.open()
    stored, dice = set(), random.Random(1)
    for number in range(rounds(200, 2000)):
        if number % 10 == 0:
            line.trap(f"id-{number}.".encode(), dice.choice([CUT, LOSE]), keep=dice.randrange(3))
            tally.runs += 1
        if publish(broker, number):
            stored.add(number)
    broker.close()
    assert stored <= present(server)
    assert len(stored) >= tally.runs * 9


@pytest.mark.case("P3")
def test_a_late_answer_is_nobody_elses(server: RedisProcess, line: Proxy, tally: Tally, rounds: Rounds) -> None:
    """The answer to one publish comes after its deadline, and the next one never arrives: it is not told stored."""
    broker = RedisBroker(BrokerConfig(url=line.url(server.url), timeout=0.3))
    broker.open()
    for number in range(0, rounds(3, 30) * 2, 2):
        held = line.trap(f"id-{number}.".encode(), HOLD)
        assert not publish(broker, number)
        assert held.wait(5)
        line.trap(f"id-{number + 1}.".encode(), CUT)
        held.release()
        assert not publish(broker, number + 1)
        line.heal()
        assert number + 1 not in present(server)
        tally.runs += 1
    broker.close()


@pytest.mark.case("P4")
def test_a_server_that_hangs_fails_a_publish_in_time(server: RedisProcess, line: Proxy, tally: Tally) -> None:
    broker = RedisBroker(BrokerConfig(url=line.url(server.url), timeout=0.5))
    broker.open()
    for way in ("stall", "swallow"):
        getattr(line, way)(DOWN)
        begun = time.monotonic()
        assert not publish(broker, 1)
        assert time.monotonic() - begun < 5
        line.heal()
        assert publish(broker, 2)
        tally.runs += 1
    broker.close()


@pytest.mark.case("P5", note="a queue on Redis needs no declaration: it is there when something is put into it")
def test_a_queue_that_was_deleted_is_there_again(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    with redis_project(tmp_path, server, results=False) as project, client_of(server) as client:
        keys = []
        for number in range(rounds(5, 50)):
            client.flushall()
            project.task("work").apply_async((f"k{number}",), queue="elsewhere")
            keys = [f"k{number}"]
            # Each round is deleted by the next one, so it is looked at here; the last one is run.
            assert client.llen("elsewhere") == 1
            tally.runs += 1
        with WorkerProcess(project, "-c", "1", "-Q", "elsewhere"):
            judge(project, keys, tally, within=10)


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Eight MiB, in which servers of this test live."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], capture_output=True).returncode:
        pytest.skip("this user may not mount a disk of eight MiB")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], timeout=10)


@pytest.mark.thorough
@pytest.mark.case("P6")
def test_the_disk_is_full(small_disk: Path, tally: Tally) -> None:
    with redis_server("--auto-aof-rewrite-percentage", "0", fsync="always") as server:
        broker = RedisBroker(BrokerConfig(url=server.url, timeout=2.0))
        broker.open()
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (5 << 20))
        stored, number = set(), 0
        while publish(broker, number, 20_000) and number < 1000:
            stored.add(number)
            number += 1
        assert 20 < len(stored) < 1000
        server.kill()
        filler.unlink()
        server.start()
        assert stored <= present(server)
        assert publish(broker, 5000)
        assert 5000 in present(server)
        broker.close()
        tally.runs += 1


@contextlib.contextmanager
def traced(server: RedisProcess, *options: str) -> Iterator[None]:
    """strace on a server, from inside to the end."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(server.pid), *options], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    attached = threading.Event()
    said: list[str] = []

    def read() -> None:
        assert tracer.stderr is not None
        for text in tracer.stderr:
            said.append(text)
            if "attached" in text:
                attached.set()
        attached.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        attached.wait(10)
        if tracer.poll() is not None or not any("attached" in text for text in said):
            pytest.skip(f"strace may not look at a process here: {''.join(said)[:200]}")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            tracer.send_signal(signal.SIGINT)
        try:
            tracer.wait(10)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait(10)
        reader.join(10)
        tracer.stderr.close()


@pytest.mark.thorough
@pytest.mark.case("P7")
def test_fsync_fails(tally: Tally, rounds: Rounds) -> None:
    """That publish is not told stored, and all that were are there after a restart."""
    for _ in range(rounds(1, 5)):
        with redis_server(fsync="always") as server:
            broker = RedisBroker(BrokerConfig(url=server.url, timeout=2.0))
            broker.open()
            calls = "fsync,fdatasync"
            with traced(server, "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO:when=3+"):
                stored = {n for n in range(20) if publish(broker, n)}
            assert len(stored) <= 3
            server.kill()
            server.start()
            assert stored <= present(server)
            assert publish(broker, 100)
            assert 100 in present(server)
            broker.close()
            tally.runs += 1


@dataclass
class Moment:
    """The append-only file as it was: bytes that were written, and of those, bytes that a disk surely has."""

    at: float
    written: int
    synced: int


def history(trace: Path) -> list[Moment]:
    """From strace's lines: ``PID TIME write(7</…/x.incr.aof>, ..., N) = N <SECONDS>``."""
    moments, written, synced = [], 0, 0
    pending: dict[str, int] = {}
    for text in trace.read_text(errors="replace").splitlines():
        found = re.match(r"(\d+) +([\d.]+) (\w+)\(", text)
        resumed = re.match(r"(\d+) +([\d.]+) <\.\.\. (\w+) resumed>.*= 0", text)
        if found and ".incr.aof" in text:
            pid, at, call = found[1], float(found[2]), found[3]
            if call == "write":
                count = int(text.rpartition("= ")[2].split()[0])
                written += count
            elif "unfinished" in text:
                pending[pid] = written
                continue
            else:
                synced = max(synced, written)
            moments.append(Moment(at, written, synced))
        elif resumed and resumed[1] in pending:
            synced = max(synced, pending.pop(resumed[1]))
            moments.append(Moment(float(resumed[2]), written, synced))
    return moments


@pytest.mark.thorough
@pytest.mark.case("P8", "R2")
@pytest.mark.parametrize(("fsync", "allowed"), [("always", 0.0), ("everysec", 2.0)])
def test_the_power_is_cut(tmp_path: Path, tally: Tally, rounds: Rounds, fsync: str, allowed: float) -> None:
    """From what the server wrote and synced, disks as a power cut may leave them: all that was synced, some of the
    rest, torn anywhere. With `everysec`, Redis says that up to two seconds may be missing."""
    images, dice = rounds(20, 100), random.Random(8)
    trace = tmp_path / "trace"
    options = ("--auto-aof-rewrite-percentage", "0")
    with redis_server(*options, fsync=fsync) as server:
        broker = RedisBroker(BrokerConfig(url=server.url))
        broker.open()
        told: list[tuple[float, int]] = []
        calls = ("-ttt", "-y", "-s", "8", "-o", str(trace), "-e", "trace=write,fsync,fdatasync")
        with traced(server, *calls):
            end, number = time.monotonic() + 6, 0
            while time.monotonic() < end:
                if publish(broker, number):
                    told.append((time.time(), number))
                number += 1
                time.sleep(0.002)
        broker.close()
        (aof,) = server.folder.rglob("*.incr.aof")
        whole, kept = aof.read_bytes(), shutil.copytree(server.folder, tmp_path / "data")
        name = aof.relative_to(server.folder)
    moments = history(trace)
    # What the server wrote before it was looked at was synced when it started.
    before = len(whole) - moments[-1].written
    assert len(told) > 300
    with redis_server(*options, fsync=fsync) as server:
        for _ in range(images):
            cut = dice.uniform(told[20][0], told[-1][0])
            then = [moment for moment in moments if moment.at <= cut][-1]
            size = before + then.synced + dice.randint(0, then.written - then.synced)
            server.kill()
            shutil.rmtree(server.folder / name.parts[0])
            shutil.copytree(kept / name.parts[0], server.folder / name.parts[0])
            os.truncate(server.folder / name, size)
            server.start()
            promised = {number for at, number in told if at < cut - allowed}
            missing = promised - present(server)
            tally.lost += len(missing)
            tally.runs += 1
            assert not missing, f"{len(missing)} of {len(promised)}, from {min(missing)} on"
