"""The engine's children: started through the fork server, fed through the inbox, watched by pidfd."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kernel import errors
from kernel.finding import AppNotFound
from kernel.worker import slots
from kernel.worker.claims.item import Item
from kernel.worker.executors import Death, Listener
from kernel.worker.manifest import Manifest
from kernel.worker.options import WorkerOptions
from kernel.worker.processes import frames
from kernel.worker.processes.channel import Channel
from kernel.worker.processes.forkserver import ControlReader, ForkServer
from kernel.worker.processes.wiring import Wiring
from kernel.worker.slots import Holding, Slots

_log = logging.getLogger("kernel.worker")

_OUTBOX_BURST: Final = 256
_ORDER_SECONDS: Final = 0.001
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_HOPELESS: Final = 5
_IMPORT_SECONDS: Final = 60.0
_SERVER_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Process:
    number: int
    pid: int = 0
    pidfd: int = -1
    state: str = "missing"  # missing, asked, starting, ready
    killed: int | None = None
    failures: int = 0
    try_at: float = 0.0
    since: float = 0.0
    """When it was asked for (monotonic)."""


class Children:
    """Implements `Executors` with child processes."""

    patience = 1.0

    def __init__(self, *, channel: str = "") -> None:
        self.slots = 0
        self.goes_on = False
        self._page_fd = slots.anonymous_file("kernel-slots")
        self._page: Slots
        self._inbox, self._inbox_reader = Channel.pair(channel)
        self._outbox_writer, self._outbox = Channel.pair(channel)
        ours, theirs = socket.socketpair(socket.AF_UNIX, getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM))
        self._control = ControlReader(ours)
        self._theirs = theirs
        self._alive_reader, self._alive = os.pipe()
        self._processes: list[_Process] = []
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._draining = False
        self._server_pid = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._ever_ready = False
        self._alive_timeout = self._patience = 4.0

    # start --------------------------------------------------------------------------------------------------

    def _wiring(self) -> Wiring:
        return Wiring(
            control=self._theirs.fileno(),
            inbox=self._inbox_reader.fileno(),
            outbox=self._outbox_writer.fileno(),
            page=self._page_fd,
            alive=self._alive_reader,
            engine_pid=os.getpid(),
        )

    def fork(self, options: WorkerOptions, load_app: Callable[[], Any]) -> None:
        """Start the fork server by forking this process, which must have no threads and no app yet."""
        wiring = self._wiring()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._server_pid = pid
            self._theirs.close()
            return
        status = 1
        try:
            self._control.socket.close()
            self._inbox.close()
            self._outbox.close()
            os.close(self._alive)
            status = ForkServer(wiring, options, load_app=load_app).run()
        finally:
            os._exit(status)

    def execute(self, options: WorkerOptions) -> None:
        """Start the fork server as a new interpreter, from a process that has threads or an app already.

        The calling thread must live as long as the worker: the fork server ends with it (see `parent`).
        """
        wiring = self._wiring()
        command = [sys.executable, "-m", "kernel.worker.processes.forkserver", wiring.dump(), options.dump()]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._server = subprocess.Popen(command, pass_fds=wiring.descriptors, env=environment)
        self._server_pid = self._server.pid
        self._theirs.close()

    def manifest(self, timeout: float) -> Manifest:
        """Wait for what the fork server says about the app. Raises `ImproperlyConfigured` with the app's
        own error, or when it does not come."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise errors.ImproperlyConfigured(
                    f"the app was not imported within {timeout:.0f} seconds; does it wait for something at import?"
                )
            try:
                event = self._control.read()
            except EOFError:
                raise errors.ImproperlyConfigured(
                    "the process that imports the app ended while it did so: does the app call os._exit() or crash "
                    "at import? Nothing was claimed, nothing is lost."
                ) from None
            if event is None:
                continue
            if event[0]["event"] == "failed":
                kind = AppNotFound if event[0].get("kind") == "AppNotFound" else errors.ImproperlyConfigured
                raise kind(f"the worker cannot use the app: {event[0]['error']}\n{event[0].get('text', '')}".rstrip())
            manifest = Manifest.from_json(event[0]["manifest"])
            self._lay_out(manifest)
            return manifest

    def _lay_out(self, manifest: Manifest) -> None:
        """Children are forked when the engine opens, so the page may get its size only now."""
        self.slots = manifest.processes * manifest.slots
        self.goes_on = manifest.slots == 1
        self._page = Slots.create(self._page_fd, max(1, manifest.processes), manifest.slots + slots.BACKLOG)
        settings = manifest.settings
        self._alive_timeout = self._patience = float(settings.get("worker_proc_alive_timeout") or 4.0)
        if settings.get("worker_start_method") == "spawn":
            self._patience += _IMPORT_SECONDS  # such a child imports the app itself
        self._processes = [_Process(number) for number in range(manifest.processes)]

    def open(self, listener: Listener) -> None:
        """Start the children."""
        self._listener = listener
        self.tick()

    def let_go_on(self, value: bool) -> None:
        self._page.shortcuts = value

    def selectables(self) -> Sequence[tuple[Any, Callable[[], None]]]:
        return [(self._outbox, self.collect), (self._control, self._hear)]

    @property
    def ready(self) -> bool:
        return any(process.state == "ready" for process in self._processes)

    # work ---------------------------------------------------------------------------------------------------

    def send(self, items: Sequence[Item]) -> bool:
        epoch = self._page.epoch
        packed = [
            frames.pack_assignment(
                item.seq,
                item.delivery,
                early_ack=item.early_ack,
                obituary=item.obituary,
                joined=item.joined,
                lent=item.lent,
            )
            for item in items
        ]
        if not self._inbox.send(frames.pack_batch(epoch, packed), block=False):
            return False
        for item in items:
            item.epoch = epoch
        return True

    def recall(self) -> Sequence[int]:
        seqs: list[int] = []
        while True:
            frame = self._inbox_reader.receive(block=False)
            if not frame:
                return seqs
            seqs.extend(frames.numbers(frame))

    def collect(self) -> None:
        """Read outcomes, up to a burst of them, so that the loop gets its turn."""
        self._read_outbox(_OUTBOX_BURST)

    def _read_outbox(self, limit: int | None) -> None:
        assert self._listener is not None
        count = 0
        while limit is None or count < limit:
            frame = self._outbox.receive(block=False)
            if not frame:
                return
            count += 1
            try:
                self._understand(frame, self._listener)
            except Exception as exc:  # a child runs anybody's code: what comes from it must not end the engine
                _log.error("a child sent what cannot be read: %r", exc)

    def _understand(self, frame: bytes, listener: Listener) -> None:
        kind = frame[:1]
        if kind in (frames.KIND_DONE, frames.KIND_STORED):
            listener.on_done(*frames.unpack_done(frame))
        elif kind == frames.KIND_END:
            listener.on_ended(frames.unpack_ending(frame)[1])
        elif kind == frames.KIND_OWN:
            listener.on_carried_out(frames.unpack_own(frame))
        elif kind == frames.KIND_ENDS:
            for single in frames.unpack_endings(frame):
                listener.on_ended(frames.unpack_ending(single)[1])
        elif kind == frames.KIND_DROPPED:
            _, seq, epoch = frames.unpack_note(frame)
            listener.on_dropped(seq, epoch)
        elif kind == frames.KIND_READY:
            process = self._processes[frames.unpack_note(frame)[0]]
            process.state, process.failures = "ready", 0
            self._ever_ready = True
        elif kind == frames.KIND_REPORT:
            _, topic, data = frames.unpack_report(frame)
            listener.on_report(topic, data)

    # slots (any thread) -------------------------------------------------------------------------------------

    def holdings(self) -> Sequence[Holding]:
        # Of all, whatever their state here: a child may have taken a task before its READY was read.
        return [holding for process in self._processes for holding in self._page.holdings(process.number)]

    def oldest(self) -> float | None:
        return min((holding.started for holding in self.holdings() if holding.started > 0), default=None)

    def mark(self, holding: Holding, mark: int) -> None:
        now = self._page.read(holding.child, holding.slot)
        if now is None or now.seq != holding.seq:
            return
        self._page.mark(holding.child, holding.slot, holding.seq, mark)
        if mark != slots.MARK_STOLEN:
            self._signal(self._processes[holding.child], signal.SIGUSR1)

    def kill(self, holding: Holding, grace: float) -> bool:
        """Hold the child's intake, wait for its other tasks until `grace` (monotonic time) is over, and kill
        it if the slot still holds the number, and what it is of has not ended."""
        self._page.hold(holding.child, True)
        now = self._page.read(holding.child, holding.slot)
        if now is None or now.seq != holding.seq or now.started == slots.ENDED:
            self._page.hold(holding.child, False)
            return True
        # One that has ended, and whose end is not on its way yet, would run again.
        others = any(h.started and h.seq != holding.seq for h in self._page.holdings(holding.child))
        if others and time.monotonic() < grace:
            return False
        process = self._processes[holding.child]
        process.killed = holding.seq
        self._signal(process, signal.SIGKILL)
        return True

    def release(self, holding: Holding) -> None:
        self._page.hold(holding.child, False)

    def end_child(self, number: int) -> None:
        self._signal(self._processes[number], signal.SIGKILL)

    def set_lease(self, until: float) -> None:
        self._page.lease_until = until

    def give_up_at(self, moment: float) -> None:
        self._page.give_up_at = moment

    def _signal(self, process: _Process, number: int) -> None:
        """To the very process: a pidfd never means another one that got the same number."""
        with self._lock:
            if process.state not in ("ready", "starting"):
                return
            try:
                if process.pidfd >= 0:
                    signal.pidfd_send_signal(process.pidfd, number)
                elif process.pid:
                    os.kill(process.pid, number)
            except ProcessLookupError:
                return

    # supervision --------------------------------------------------------------------------------------------

    def tick(self) -> None:
        now = time.monotonic()
        for process in self._processes:
            if process.state == "missing" and now >= process.try_at and not self._draining:
                process.state, process.since = "asked", now
                self._control.command(command="spawn", number=process.number)
            elif process.state == "starting" and now - process.since > self._patience * 2**process.failures:
                # The patience grows: on a machine that is merely slow the next one may make it.
                _log.error(
                    "child %d (process %d) was not ready in time (worker_proc_alive_timeout is %gs): ended",
                    process.number,
                    process.pid,
                    self._alive_timeout,
                )
                process.since = now
                self._signal(process, signal.SIGKILL)
            elif process.state == "asked" and now - process.since > _SERVER_SECONDS and self._listener is not None:
                process.since = now
                self._listener.on_failed(f"the fork server has not answered for {_SERVER_SECONDS:.0f} seconds")

    def _hear(self) -> None:
        try:
            news = self._control.read()
        except EOFError:
            assert self._listener is not None
            self._listener.unselect(self._control)
            if not self._draining:
                self._listener.on_failed("the fork server has ended; without it no child can be started")
            return
        if news is None:
            return
        event, fd = news
        if event["event"] == "spawned":
            self._on_spawned(self._processes[event["number"]], int(event["pid"]), fd)
        elif event["event"] == "exited":
            self._on_exited(self._processes[event["number"]], int(event["pid"]), int(event["status"]))
        elif event["event"] == "spawn-failed":
            process = self._processes[event["number"]]
            process.state = "missing"
            self._back_off(process, f"cannot be started: {event['error']}")

    def _on_spawned(self, process: _Process, pid: int, pidfd: int) -> None:
        process.pid, process.pidfd, process.killed = pid, pidfd, None
        if process.state == "asked":  # its own READY may have come first, by the other socket
            process.state = "starting"
        if pidfd >= 0 and self._listener is not None:
            self._listener.select(pidfd, lambda: self._on_death(process))
        if self._draining:
            self._signal(process, signal.SIGKILL)

    def _on_death(self, process: _Process) -> None:
        """The pidfd says that it has ended: account for it now; its status comes from the fork server."""
        if process.state not in ("ready", "starting"):
            return
        assert self._listener is not None
        self._read_outbox(None)
        pid, was_ready = process.pid, process.state == "ready"
        with self._lock:
            process.state = "missing"
            if process.pidfd >= 0:
                self._listener.unselect(process.pidfd)
                os.close(process.pidfd)
            # Its successor may be ready before the fork server's word of this end is read, which must not meet it.
            process.pid, process.pidfd = 0, -1
        self._page.epoch += 1
        recalled = frozenset(self.recall())
        time.sleep(_ORDER_SECONDS)  # what a living child announced before it saw the epoch is visible after this
        held = list(self._page.holdings(process.number))
        self._page.enter(process.number, 0)
        living = frozenset(holding.seq for holding in self.holdings())
        # A child sends an outcome first and clears the slot after: read in the opposite order, nothing is missed.
        self._read_outbox(None)
        if not was_ready:
            self._back_off(process, "ended before it was ready")
        self._listener.on_death(Death(process.number, pid, held, living, recalled, process.killed))
        self.tick()

    def _on_exited(self, process: _Process, pid: int, status: int) -> None:
        if process.pid == pid and process.pidfd < 0 and process.state in ("ready", "starting"):
            self._on_death(process)  # no pidfd on this system
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            _log.warning("child %d was ended by %s", pid, name)
        elif os.WEXITSTATUS(status):
            _log.warning("child %d exited with status %d", pid, os.WEXITSTATUS(status))

    def _back_off(self, process: _Process, text: str) -> None:
        process.failures += 1
        pause = min(_FIRST_PAUSE * 2**process.failures, _LONGEST_PAUSE)
        process.try_at = time.monotonic() + pause
        _log.error("child %d %s; next try in %.1fs", process.number, text, pause)
        if not self._ever_ready and process.failures >= _HOPELESS and self._listener is not None:
            self._listener.on_failed(f"no child can be started: child {process.number} {text}, {_HOPELESS} times")

    # end ----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        self._draining = True
        self._page.stage = slots.STAGE_DRAIN
        if not self._inbox.has_end:
            for _ in range(2 * self.slots):  # these wake the readers; who misses one looks within its timeout
                self._inbox.send(frames.pack_batch(self._page.epoch, []), block=False)
        self._inbox.close()

    @property
    def finished(self) -> bool:
        return all(process.state in ("missing", "asked") for process in self._processes)

    def terminate(self) -> None:
        self._draining = True
        for process in self._processes:
            self._signal(process, signal.SIGKILL)

    def close(self) -> None:
        self.terminate()
        self._control.command(command="exit")
        self._control.socket.close()
        self._reap_server()
        for channel in (self._inbox, self._inbox_reader, self._outbox, self._outbox_writer):
            channel.close()
        os.close(self._alive)
        os.close(self._alive_reader)
        for process in self._processes:
            if process.pidfd >= 0:
                os.close(process.pidfd)
                process.pidfd = -1
        os.close(self._page_fd)

    def _reap_server(self) -> None:
        if not self._server_pid:
            return
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                if os.waitpid(self._server_pid, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break
            time.sleep(0.005)
        else:
            os.kill(self._server_pid, signal.SIGKILL)
            os.waitpid(self._server_pid, 0)
        if self._server is not None:
            self._server.returncode = 0  # reaped above
        self._server_pid = 0

    def figures(self) -> Mapping[str, Any]:
        return {
            "children": {process.number: process.pid for process in self._processes if process.state == "ready"},
            "slots": self.slots,
            "fork_server": self._server_pid,
        }
