"""Watches what must be watched even if the engine's loop is stuck in somebody's hook: time limits, stopped
children, and the hook itself. Runs on a thread of its own that calls no hook."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from kernel.extensions import Extensions
from kernel.worker import slots
from kernel.worker.claims.ledger import Ledger
from kernel.worker.executors import Executors
from kernel.worker.slots import Holding

_log = logging.getLogger("kernel.worker")

_TICK: Final = 0.05
_IDLE_TICK: Final = 0.5
_HOOK_WARNING: Final = 1.0
_REMEMBERED: Final = 1000


class Keeper:
    """`stalled` is called when a hook has blocked the loop past `hook_deadline`; `publish` now and then with
    what a status reader should know."""

    def __init__(
        self,
        ledger: Ledger,
        executors: Executors,
        extensions: Extensions,
        *,
        lease: float,
        limit_grace: float,
        hook_deadline: float,
        stalled: Callable[[str], None],
        publish: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._ledger = ledger
        self._executors = executors
        self._extensions = extensions
        self._lease = lease
        self._limit_grace = limit_grace
        self._hook_deadline = hook_deadline
        self._stalled = stalled
        self._publish = publish
        self._stop = threading.Event()
        self._soft_done: set[int] = set()
        self._kills: dict[int, tuple[Holding, float]] = {}
        self._killed: set[int] = set()
        self._revoked: set[int] = set()
        self._stopped_since: dict[int, float] = {}
        self._warned: float = 0.0
        self._given_up = False
        self._published = 0.0
        self._looked = 0.0
        self._thread = threading.Thread(target=self._run, name="kernel-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def terminate(self, seq: int) -> None:
        """End the process that runs this task, as soon as it may be: it was revoked."""
        self._revoked.add(seq)

    def _run(self) -> None:
        pause = _TICK
        while not self._stop.wait(pause):
            try:
                busy = len(self._ledger) > 0
                if busy:
                    self._watch_limits()
                self._watch_hook()
                self._watch_stopped()
                self._report()
            except Exception:
                _log.exception("the keeper met an error and goes on")
                busy = False
            pause = _TICK if busy else _IDLE_TICK

    # time limits --------------------------------------------------------------------------------------------

    def _watch_limits(self) -> None:
        now = time.monotonic()
        for holding in self._executors.holdings():
            item = self._ledger.get(holding.seq)
            if item is None or holding.started <= 0 or item.obituary is not None:
                continue
            ran = now - holding.started
            if holding.seq in self._revoked:
                self._revoked.discard(holding.seq)
                item.revoked = True
                self._kills[holding.seq] = (holding, now + self._limit_grace)
            if item.soft is not None and ran >= item.soft and holding.seq not in self._soft_done:
                self._soft_done.add(holding.seq)
                _log.warning("soft time limit (%ss) exceeded for %s[%s]", item.soft, item.name, item.id)
                self._executors.mark(holding, slots.MARK_SOFT)
            if item.hard is not None and ran >= item.hard and not {holding.seq} & (self._kills.keys() | self._killed):
                self._kills[holding.seq] = (holding, now + self._limit_grace)
        self._kill_due()
        for done in (self._soft_done, self._killed, self._revoked):
            if len(done) > _REMEMBERED:
                done.intersection_update([seq for seq in list(done) if self._ledger.get(seq) is not None])

    def _kill_due(self) -> None:
        for seq, (holding, grace) in list(self._kills.items()):
            item = self._ledger.get(seq)
            if item is None or item.obituary is not None:  # it ended, or its child did, before it came to that
                self._executors.release(holding)
                del self._kills[seq]
                continue
            if not self._executors.kill(holding, grace):
                continue
            del self._kills[seq]
            self._killed.add(seq)
            text = "terminated" if item.revoked else f"hard time limit ({item.hard}s) exceeded"
            _log.error("%s: %s[%s]", text, item.name, item.id)

    # children that do not move ------------------------------------------------------------------------------

    def _watch_stopped(self) -> None:
        """A child that was stopped (SIGSTOP) for longer than the lease is ended like one that died: what it
        holds would wait for ever, since a living engine renews its lease."""
        now = time.monotonic()
        if now - self._looked < min(1.0, self._lease / 4):
            return
        self._looked = now
        pids = self._executors.figures().get("children", {})
        for number, pid in pids.items():
            if not _is_stopped(pid):
                self._stopped_since.pop(number, None)
                continue
            since = self._stopped_since.setdefault(number, now)
            if now - since > self._lease:
                _log.error("child %d has been stopped for %.0f seconds: ended", pid, now - since)
                self._stopped_since.pop(number)
                self._executors.end_child(number)

    # hooks --------------------------------------------------------------------------------------------------

    def _watch_hook(self) -> None:
        running = self._extensions.running
        if running is None:
            return
        plugin, hook, since = running
        blocked = time.monotonic() - since
        if blocked > _HOOK_WARNING and self._warned != since:
            self._warned = since
            _log.error("plugin %r has been blocking the worker in %s for %.1f seconds", plugin, hook, blocked)
            self._published = 0.0
        if blocked > self._hook_deadline and not self._given_up:
            self._given_up = True
            self._stalled(
                f"plugin {plugin!r} blocks in {hook} for {blocked:.0f} seconds, worker_hook_deadline is "
                f"{self._hook_deadline:.0f}; the worker ends, its tasks go back"
            )

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._published < 5.0:
            return
        self._published = now
        running = self._extensions.running
        blocked = None
        if running is not None and now - running[2] > _HOOK_WARNING:
            blocked = {"plugin": running[0], "hook": running[1], "seconds": round(now - running[2], 1)}
        self._publish({"blocked": blocked, "held": len(self._ledger), **self._executors.figures()})


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False
