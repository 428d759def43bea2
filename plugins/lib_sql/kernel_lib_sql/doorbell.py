"""Bells between processes of one host: a FIFO for each waiter, found by the topics it listens to.

The folder holds, for each bell, one name a topic (``<topic>.<bell>``, hard links to one FIFO). Ringing lists the
folder, opens the names of the topic and writes a byte. A FIFO that nobody reads is that of a dead process: opening it
says so, and so we also learn of deaths without waiting for a lease, whatever pid namespaces the processes are in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
import zlib
from collections.abc import Iterable
from typing import Final

_SETTLED: Final = 20_000_000
"""Nanoseconds by which a folder's date must lie back for a listing to be kept: its clock ticks every few
milliseconds, and a change in the same tick would go unseen."""
_POLLING: Final = 0.2
"""Seconds between looks where the file system has no FIFOs."""
_MAX_WATCHED: Final = 64


class Doorbell:
    """The bells of one folder. Usable from any thread."""

    def __init__(self, folder: str) -> None:
        self._path = folder
        self._folder = self._open()
        self._listing: dict[str, list[str]] = {}
        self._listed_at = -1
        self._bells: set[FifoBell] = set()
        self._lock = threading.Lock()

    def ring(self, topics: Iterable[str]) -> None:
        listing = self._names()
        for topic in topics:
            for name in listing.get(_code(topic), ()):
                self._touch(name)

    def heard(self, topic: str) -> bool:
        """Whether anyone may listen to `topic` (or to one that shares its code)."""
        return bool(self._names().get(_code(topic))) or not self._has_fifos()

    def _has_fifos(self) -> bool:
        """Whether this file system has FIFOs: the writers' turn has one wherever there can be one."""
        with contextlib.suppress(OSError):
            os.stat("turn.bell", dir_fd=self.folder)
            return True
        return False

    @property
    def folder(self) -> int:
        """A descriptor of the folder, made again when somebody deleted it."""
        if self._folder >= 0 and not os.fstat(self._folder).st_nlink:
            with self._lock:
                if not os.fstat(self._folder).st_nlink:
                    os.close(self._folder)
                    self._folder = self._open()
        return self._folder

    def _open(self) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._path, 0o700)
        return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def is_dead(self, address: str) -> bool:
        """True when the bell of that address has no process any more. False for an address that is not here."""
        try:
            os.close(os.open(address, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.folder))
        except OSError as exc:
            return exc.errno == errno.ENXIO
        return False

    def listen(self, topics: Iterable[str]) -> FifoBell:
        bell = FifoBell(self)
        with self._lock:
            self._bells.add(bell)
        bell.add(topics)
        return bell

    def forget(self, bell: FifoBell) -> None:
        with self._lock:
            self._bells.discard(bell)

    def close(self) -> None:
        for bell in tuple(self._bells):
            bell.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def abandon(self) -> None:
        """In a forked child: let go of the parent's bells without taking their names away."""
        for bell in tuple(self._bells):
            bell.abandon()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _names(self) -> dict[str, list[str]]:
        folder = self.folder
        changed = os.fstat(folder).st_mtime_ns
        if changed == self._listed_at:
            return self._listing
        listing: dict[str, list[str]] = {}
        for name in os.listdir(folder):
            code, dot, _ = name.partition(".")
            if dot and code.startswith("t-"):
                listing.setdefault(code, []).append(name)
        self._listing = listing
        self._listed_at = changed if time.time_ns() - changed > _SETTLED else -1
        return listing

    def _touch(self, name: str) -> None:
        try:
            fd = os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.folder)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                # Nobody reads it: its process is dead. A living one opens its FIFO before it gets this name.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self.folder)
            return
        try:
            # EAGAIN: the pipe is full of rings already. EPIPE: it died just now.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(fd, b".")
        finally:
            os.close(fd)


class FifoBell:
    """A `kernel_lib_sql.bell.Bell` on a FIFO."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._id = os.urandom(8).hex()
        self._topics: set[str] = set()
        self._watched: dict[str, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._waiting = 0
        self._fallback = threading.Event()
        self._fd = self._make()

    @property
    def address(self) -> str:
        return f"bell.{self._id}" if self._fd >= 0 else ""

    def wait(self, timeout: float) -> bool:
        with self._lock:
            if self._closed:
                return no_more(timeout)
            self._waiting += 1
        try:
            return self._wait(timeout)
        finally:
            with self._lock:
                self._waiting -= 1
                # The descriptor outlives the wait: its number might be another file's by now.
                if self._closed and not self._waiting:
                    self._release()

    def _wait(self, timeout: float) -> bool:
        if self._fd >= 0 and not self._is_there():
            self._make_again()
            return True
        fd = self._fd
        if fd < 0:
            rang = self._fallback.wait(min(timeout, _POLLING))
            self._fallback.clear()
            # Not rung, but due for a look; that is what a file system without FIFOs leaves us.
            return rang or timeout > _POLLING
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        for peer in tuple(self._watched.values()):
            poll.register(peer, 0)
        ready = poll.poll(max(0.0, timeout) * 1000)
        if any(number == fd for number, _ in ready):
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 65536)
        return bool(ready)

    def wake(self) -> None:
        if self._fd < 0:
            self._fallback.set()
            return
        with contextlib.suppress(BlockingIOError):
            os.write(self._fd, b".")

    def add(self, topics: Iterable[str]) -> None:
        with self._lock:
            for topic in topics:
                if topic not in self._topics:
                    self._topics.add(topic)
                    self._link(topic)

    def discard(self, topics: Iterable[str]) -> None:
        with self._lock:
            for topic in topics:
                if topic in self._topics:
                    self._topics.discard(topic)
                    # Another topic may have the same code, and then the name stays.
                    if _code(topic) not in map(_code, self._topics):
                        self._unlink(f"{_code(topic)}.{self._id}")

    def watch(self, addresses: Iterable[str]) -> None:
        wanted = set(list(addresses)[:_MAX_WATCHED]) - {self.address, ""}
        for address in set(self._watched) - wanted:
            os.close(self._watched.pop(address))
        for address in wanted - set(self._watched):
            with contextlib.suppress(OSError):
                self._watched[address] = os.open(
                    address, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._doorbell.folder
                )

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for topic in self._topics:
                self._unlink(f"{_code(topic)}.{self._id}")
            self._unlink(f"bell.{self._id}")
            self.wake()
            if not self._waiting:
                self._release()
        self._doorbell.forget(self)

    def abandon(self) -> None:
        """Close without touching the folder; for a forked child, whose parent goes on with this bell."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        self._fallback.set()
        for fd in (*self._watched.values(), self._fd):
            if fd >= 0:
                os.close(fd)
        self._watched.clear()
        self._fd = -1

    def _is_there(self) -> bool:
        """Whether our name is still in the folder; cleaners of temporary files know no FIFOs in use."""
        try:
            os.stat(f"bell.{self._id}", dir_fd=self._doorbell.folder)
        except FileNotFoundError:
            return self._closed
        except OSError:
            return True
        return True

    def _make_again(self) -> None:
        with self._lock:
            if not self._closed:
                os.close(self._fd)
                self._fd = self._make()
                for topic in self._topics:
                    self._link(topic)

    def _make(self) -> int:
        # Opened under a name that nobody rings, because a FIFO without a reader is taken for that of a dead process.
        draft, name = f".new.{self._id}", f"bell.{self._id}"
        try:
            os.mkfifo(draft, 0o600, dir_fd=self._doorbell.folder)
            fd = os.open(draft, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._doorbell.folder)
            os.rename(draft, name, src_dir_fd=self._doorbell.folder, dst_dir_fd=self._doorbell.folder)
        except OSError:
            self._unlink(draft)
            return -1
        return fd

    def _link(self, topic: str) -> None:
        if self._fd < 0:
            return
        # Two topics of one code share the name.
        with contextlib.suppress(FileExistsError):
            os.link(
                f"bell.{self._id}",
                f"{_code(topic)}.{self._id}",
                src_dir_fd=self._doorbell.folder,
                dst_dir_fd=self._doorbell.folder,
            )

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._doorbell.folder)


def no_more(timeout: float) -> bool:
    """A bell that was closed: nobody should wait there any more, and whoever does shall not spin."""
    time.sleep(min(timeout, 0.05))
    return True


def _code(topic: str) -> str:
    """A file name for any topic. Two topics may share one, which costs a needless wake-up and no more."""
    return f"t-{zlib.crc32(topic.encode('utf-8', 'surrogatepass')):08x}"
