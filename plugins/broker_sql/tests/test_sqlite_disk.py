"""Disks that fill up, fail, lose power or are tampered with."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kernel_broker_sql import SqlBroker
from kernel_lib_sql import DatabaseDamaged, ReadOnly, SchemaTooNew

from kernel.errors import ImproperlyConfigured, OperationalError
from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, Settled, Settlement, Verdict
from kernel.message import Message, Publication

Start = Callable[..., Any]


def opened(url: str, timeout: float = 10.0) -> SqlBroker:
    broker = SqlBroker(BrokerConfig(url=url, timeout=timeout))
    broker.open()
    return broker


def some(count: int, size: int = 20) -> list[Publication]:
    return [
        Publication(
            Message({"id": f"task-{n}", "task": "t"}, b"%08d" % n * (size // 8), content_type="application/json"), "q"
        )
        for n in range(count)
    ]


def stored_ids(path: Path) -> set[str]:
    """The ids in a file, after SQLite has found nothing wrong with it."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in connection.execute("SELECT task_id FROM kernel_message")}
    finally:
        connection.close()


# --- the disk is full ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True, timeout=20
    )
    if mounted.returncode:
        pytest.skip("this sandbox allows no mounts")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


@pytest.mark.faults
def test_a_full_disk_fails_publishes_and_loses_none_that_was_taken(small_disk: Path) -> None:
    path = small_disk / "jobs.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_000_000))
    broker = opened(f"sqlite:///{path}")
    taken: list[str] = []
    reasons: set[str] = set()

    def fill() -> bool:
        """Until something fails; whether it did."""
        for _ in range(2000):
            items = some(1, 8000)
            items[0] = Publication(items[0].message.replace_headers(id=os.urandom(8).hex()), "q")
            try:
                broker.publish(items)
            except OperationalError as exc:
                reasons.add(str(exc))
                return True
            taken.append(items[0].message.id)
        return False

    assert fill()
    before = len(taken)
    assert before > 50
    ballast.unlink()
    assert fill()
    assert len(taken) > before
    assert any("no space left" in reason for reason in reasons)
    broker.close()
    # Together with its log, which the full disk may have kept from being emptied.
    copy = small_disk.parent / "copy"
    copy.mkdir()
    for each in small_disk.glob("jobs.db*"):
        if each.is_file():
            shutil.copy(each, copy)
    assert not set(taken) - stored_ids(copy / "jobs.db")


# --- fsync fails --------------------------------------------------------------------------------------------------


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("strace is not installed")
        pytest.skip("strace is not installed")
    if subprocess.run([found, "-o", "/dev/null", "true"], capture_output=True, timeout=20).returncode:
        pytest.skip("this sandbox allows no tracing")
    return found


@pytest.mark.faults
@pytest.mark.parametrize("which", ["3", "7", "12..13"])
def test_a_failed_fsync_fails_the_publish(url: str, actor: Start, strace: str, tmp_path: Path, which: str) -> None:
    opened(url).close()
    log = tmp_path / "log"
    fault = f"inject=fsync,fdatasync:error=EIO:when={which}"
    before = [strace, "-f", "-y", "-o", str(log), "-e", "trace=fsync,fdatasync,write,pwrite64", "-e", fault]
    live = actor("live", url, "q", 30, before=before)
    live.end()
    failed = [line for line in live.lines if line.startswith(("failed", "why"))]
    assert failed, "the fault hit nothing that anybody waited for"
    assert any("failed" in line or "disk" in line for line in failed)
    assert live.lines[-1] == "end"
    said = _said(live.lines)
    present = stored_ids(tmp_path / "jobs.db")
    assert not (said["sent"] - said["done"]) - present
    # The log that had the hole is not written to the disk a second time: it was copied into the database first.
    events = log.read_text().splitlines()
    first = next(index for index, line in enumerate(events) if "INJECTED" in line)
    syncs = [line for line in events[first + 1 :] if "sync(" in line and "INJECTED" not in line]
    assert syncs
    told = next(index for index, line in enumerate(events) if index > first and "write(1<" in line and "sent" in line)
    assert any("jobs.db>" in line and "sync(" in line for line in events[first:told])


def _said(lines: list[str]) -> dict[str, set[str]]:
    said: dict[str, set[str]] = {"sent": set(), "done": set(), "failed": set()}
    for line in lines:
        verb, *ids = line.split()
        if verb in said:
            said[verb].update(ids)
    return said


# --- the power goes -----------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """What a power cut may leave: everything synced, and any part of what came later."""

    durable: dict[str, bytearray] = field(default_factory=dict)
    pending: dict[str, list[tuple[int, bytes | None]]] = field(default_factory=dict)

    def write(self, name: str, at: int, data: bytes) -> None:
        self.pending.setdefault(name, []).append((at, data))

    def truncate(self, name: str, size: int) -> None:
        self.pending.setdefault(name, []).append((size, None))

    def sync(self, name: str) -> None:
        content = self.durable.setdefault(name, bytearray())
        for at, data in self.pending.pop(name, []):
            _apply(content, at, data)

    def image(self, folder: Path, chance: random.Random) -> None:
        for name in {*self.durable, *self.pending}:
            content = bytearray(self.durable.get(name, b""))
            kept = [each for each in self.pending.get(name, []) if chance.random() < 0.6]
            for index, (at, data) in enumerate(kept):
                # The last one is torn, at a sector or in the middle of one.
                torn = data is not None and index == len(kept) - 1
                _apply(content, at, data[: chance.randrange(len(data) + 1)] if torn and data else data)
            (folder / name).write_bytes(content)


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del content[at:]
        content.extend(bytes(at - len(content)))
        return
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(data)] = data


_CALL = re.compile(r"^\d+ +(\w+)\((\d+)<([^>]*)>(?:, (.*))?\) += (-?\d+)")


def _events(log: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Calls on the database's files and lines said, in order: (what, which file, arguments)."""
    for line in log.read_text().splitlines():
        if not (match := _CALL.match(line)) or int(match[5]) < 0:
            continue
        path = bytes.fromhex(match[3].replace("\\x", "")).decode()
        if match[2] == "1" and match[1] == "write":
            yield "said", "", [_bytes((match[4] or "").split(", ")[0]).decode()]
        elif Path(path).name in ("jobs.db", "jobs.db-wal"):
            yield match[1], Path(path).name, (match[4] or "").split(", ")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.strip('"').replace("\\x", ""))


@pytest.mark.faults
@pytest.mark.parametrize("images", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_a_power_cut_loses_nothing_that_was_taken(
    url: str, actor: Start, strace: str, tmp_path: Path, images: int
) -> None:
    log = tmp_path / "log"
    calls = "trace=pwrite64,write,fsync,fdatasync,ftruncate"
    live = actor("live", url, "q", 40, before=[strace, "-f", "-y", "-xx", "-s", "1000000", "-o", str(log), "-e", calls])
    live.end()
    events = [*_events(log)]
    begin = next(index for index, event in enumerate(events) if event[0] == "said")
    chance = random.Random(20261100)
    cuts = set(chance.sample(range(begin, len(events)), min(images, len(events) - begin)))
    disk, said = Disk(), list[str]()
    for index, (what, name, arguments) in enumerate(events):
        if what == "said":
            said += arguments[0].splitlines()
        elif what == "pwrite64":
            disk.write(name, int(arguments[2]), _bytes(arguments[0]))
        elif what == "ftruncate":
            disk.truncate(name, int(arguments[0]))
        elif what in ("fsync", "fdatasync"):
            disk.sync(name)
        if index in cuts:
            folder = tmp_path / f"cut-{index}"
            folder.mkdir()
            disk.image(folder, chance)
            facts = _said(said)
            present = stored_ids(folder / "jobs.db")
            assert not (facts["sent"] - facts["done"]) - present - _ending(events, index)
            assert not facts["done"] & present
            shutil.rmtree(folder)
    assert len(_said(said)["sent"]) == 100


def _ending(events: list[tuple[str, str, list[str]]], cut: int) -> set[str]:
    """What a settlement that was under way at the cut may have ended already, though nobody was told."""
    for what, _, arguments in events[cut + 1 :]:
        if what == "said":
            return _said(arguments[0].splitlines())["done"]
    return set()


# --- the file is not what it was ----------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"hello" * 2000)
    with pytest.raises(DatabaseDamaged, match=r"jobs\.db is damaged .*\.recover"):
        opened(url)


def test_flipped_bits_never_run_a_garbled_task(url: str, tmp_path: Path) -> None:
    broker = opened(url)
    broker.publish(some(200, 400))
    broker.close()
    sound = (tmp_path / "jobs.db").read_bytes()
    right = {item.message.id: bytes(item.message.body) for item in some(200, 400)}
    chance = random.Random(7)
    refused = garbled = 0
    for _ in range(25):
        damaged = bytearray(sound)
        for page in range(4096, len(damaged), 4096):
            damaged[page + chance.randrange(4096)] ^= 1 << chance.randrange(8)
        (tmp_path / "jobs.db").write_bytes(damaged)
        try:
            broker = opened(url)
            consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
            taken = consumer.fetch(500, 1 << 30, 0)
        except (DatabaseDamaged, OperationalError):
            refused += 1
        else:
            for delivery in taken:
                if delivery.message.content_type != "application/json":
                    garbled += 1
                else:
                    assert right[delivery.message.id] == delivery.message.body
        finally:
            broker.close()
            for left in tmp_path.glob("jobs.db-*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    assert refused
    assert garbled


@pytest.mark.parametrize("part", ["jobs.db-wal", "jobs.db-shm"])
def test_a_truncated_log_leaves_a_sound_database(url: str, tmp_path: Path, part: str) -> None:
    broker = opened(url)
    broker.publish(some(50))
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("jobs.db", "jobs.db-wal", "jobs.db-shm"):
        shutil.copy(tmp_path / name, folder / name)
    broker.close()
    size = (folder / part).stat().st_size
    os.truncate(folder / part, size // 2 + 13)
    ids = stored_ids(folder / "jobs.db") if part.endswith("shm") else set[str]()
    assert part.endswith("wal") or len(ids) == 50
    again = opened(f"sqlite:///{folder}/jobs.db")
    again.publish(some(1))
    again.close()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_that_was_exchanged_is_noticed(url: str, tmp_path: Path, how: str) -> None:
    broker = opened(url)
    broker.publish(some(3))
    consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
    taken = consumer.fetch(1, 1 << 30, 0)
    if how == "replaced":
        other = opened(f"sqlite:///{tmp_path}/other.db")
        other.publish(some(7))
        other.close()
        os.replace(tmp_path / "other.db", tmp_path / "jobs.db")
    else:
        (tmp_path / "jobs.db").unlink()
    for name in ("jobs.db-wal", "jobs.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(OperationalError, match="replaced or removed"):
        broker.publish(some(1))
    # From here on everybody is in the new file: what is published is what is claimed.
    broker.publish(some(1))
    assert consumer.settle([Settlement(taken[0], Verdict.ACK)]) == [Settled.STALE]
    found = consumer.fetch(100, 1 << 30, 1)
    assert len(found) == (8 if how == "replaced" else 1)
    twin = opened(url)
    assert twin.stats(["q"])[0].claimed == len(found)
    twin.close()
    broker.close()


def test_a_newer_schema_is_refused(url: str, tmp_path: Path) -> None:
    opened(url).close()
    connection = sqlite3.connect(tmp_path / "jobs.db")
    connection.execute("UPDATE kernel_schema SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(SchemaTooNew, match=r"version 99, and this installation knows \d+: upgrade"):
        opened(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite://host/x.db", "what", "oracle://x/y"])
def test_urls_that_lead_nowhere(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="sqlite:///"):
        SqlBroker(BrokerConfig(url=url))


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Root may write anywhere, save for where a folder is wanted and a file is."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ReadOnly, match="cannot be written"):
        opened(f"sqlite:///{tmp_path}/file/jobs.db")
    with pytest.raises(ImproperlyConfigured, match="no regular file"):
        opened(f"sqlite:///{tmp_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_file_is_refused(url: str, tmp_path: Path) -> None:
    opened(url).close()
    (tmp_path / "jobs.db").chmod(0o400)
    with pytest.raises(ReadOnly, match="cannot be written"):
        opened(url)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_read_only_mount_is_refused(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk}/jobs.db"
    opened(url).close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=20)
    with pytest.raises(ReadOnly, match="cannot be written"):
        opened(url)
