"""The engine: one loop that admits, dispatches and settles, and never runs user code.

The pump thread talks to the broker, the renewer keeps the lease, the keeper watches time limits and hooks;
everything else happens on the thread that calls `run`. The life of a message: `Arrivals.take_in`, `Dispatcher.send`,
`Departures.done` or `ended`, `Departures.settled`.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kernel.extensions import Extensions
from kernel.interfaces.backend import Record
from kernel.interfaces.broker import Broker, ConsumeOptions
from kernel.worker import slots
from kernel.worker.assignment import Ending, Step
from kernel.worker.claims.broadcasts import Broadcasts
from kernel.worker.claims.item import Item, Place
from kernel.worker.claims.lease import Renewer
from kernel.worker.claims.ledger import Ledger
from kernel.worker.claims.pump import Claimed, Event, Failed, LeaseLost, Pump, WasSettled, WasStarted
from kernel.worker.engine.admission import Admission
from kernel.worker.engine.arrivals import Arrivals
from kernel.worker.engine.closing import Closing, all_of
from kernel.worker.engine.commands import Command, CommandReader, Revoked
from kernel.worker.engine.departures import Departures
from kernel.worker.engine.dispatch import Dispatcher
from kernel.worker.engine.intake import Intake
from kernel.worker.engine.keeper import Keeper
from kernel.worker.engine.loop import Loop
from kernel.worker.engine.orders import Orders
from kernel.worker.engine.pace import Pace
from kernel.worker.engine.permits import Permits
from kernel.worker.engine.postmortem import Postmortem
from kernel.worker.engine.shutdown import Shutdown, Stage
from kernel.worker.executors import Death, Executors
from kernel.worker.failpoints import Failpoints
from kernel.worker.manifest import Manifest
from kernel.worker.status import StatusFile

_log = logging.getLogger("kernel.worker")

_HEARTBEAT_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 0.01
_HELD_BYTES: Final = 64 << 20
_UNABLE_SECONDS: Final = 10.0


class Engine:
    """A worker's engine over some executors. Implements `kernel.worker.executors.Listener` and
    `kernel.hooks.WorkerInfo`. `status` 0 after `run` means that it ended as it was asked to."""

    def __init__(
        self,
        manifest: Manifest,
        broker: Broker,
        executors: Executors,
        extensions: Extensions,
        *,
        exit_when_stalled: bool = False,
        owns_broker: bool = True,
    ) -> None:
        self._manifest = manifest
        self._executors = executors
        self._extensions = extensions
        self._exit_when_stalled = exit_when_stalled
        self.failpoints = Failpoints.from_environment(os.environ)
        settings = manifest.settings
        self._lease = float(settings.get("worker_lease") or 30.0)
        limit = settings.get("task_delivery_limit")
        self._limit = int(limit) if limit else None
        self._ledger = Ledger()
        self._pace = Pace(executors.patience)
        self._events: deque[Event] = deque()
        self._commands: deque[Command] = deque()
        self._revoked = Revoked()
        intake = Intake(manifest, delivery_limit=self._limit, judges_time=not broker.capabilities.delays)
        self._admission = Admission(intake, extensions, self._revoked)
        self._loop = Loop()
        self._permits = self._make_permits()
        self._dispatcher = self._make_dispatcher()
        self.pump = self._make_pump(broker, close_broker=owns_broker)
        self._renewer = Renewer(self.pump, self._lease, held=executors.set_lease, lost=self._on_lease_lost)
        self._status_file = StatusFile(manifest.hostname)
        self._keeper = self._make_keeper()
        self._command_reader = CommandReader(broker, manifest.hostname, self._post_command, outage=self.pump.outage)
        self._broadcasts = Broadcasts(broker, manifest.consuming.heard)
        self._shutdown = Shutdown(
            float(settings.get("worker_soft_shutdown_timeout") or 0.0),
            on_idle=bool(settings.get("worker_enable_soft_shutdown_on_idle")),
        )
        self._departures = self._make_departures()
        self._arrivals = Arrivals(self._ledger, self._admission, self._dispatcher, self._departures, pump=self.pump)
        self._postmortem = Postmortem(
            self._ledger, self._dispatcher, self._departures, self._shutdown, tasks=manifest.tasks, limit=self._limit
        )
        self._closing = self._make_closing()
        self._orders = self._make_orders()
        self._heartbeat_at = 0.0
        self._able = False
        self._able_at = time.monotonic()
        self._announced = False
        self._ready_calls: list[Callable[[], None]] = []
        self.status = 0

    def _make_permits(self) -> Permits:
        return Permits(
            self._ledger,
            self._executors,
            self._extensions,
            self._revoked,
            consumer=lambda: self.pump.consumer,
            usable=self._manifest.shortcuts,
        )

    def _make_departures(self) -> Departures:
        return Departures(
            self._ledger,
            self._dispatcher,
            self.pump,
            extensions=self._extensions,
            pace=self._pace,
            permits=self._permits,
            shutdown=self._shutdown,
            stores=self._manifest.atomic_end,
        )

    def _make_dispatcher(self) -> Dispatcher:
        settings = self._manifest.settings
        return Dispatcher(
            self._ledger,
            self._pace,
            self._executors,
            prepare=self._prepare,
            unsendable=self._unsendable,
            permits=self._permits,
            prefetch=settings.get("worker_prefetch_multiplier"),
            # A child that is to be replaced after so many tasks must not be handed more of them together.
            share=not settings.get("worker_max_tasks_per_child"),
        )

    def _make_pump(self, broker: Broker, *, close_broker: bool) -> Pump:
        settings = self._manifest.settings
        retry = bool(settings.get("broker_connection_retry", True))
        at_start = settings.get("broker_connection_retry_on_startup")
        most = settings.get("broker_connection_max_retries", 100)
        return Pump(
            broker,
            self._manifest.consuming.declared,
            ConsumeOptions(owner=self.hostname, lease=self._lease, delivery_limit=self._limit),
            room=self._room,
            post=self._post,
            failpoints=self.failpoints,
            opened=self._on_opened,
            connect_retries=(most or None) if (retry if at_start is None else at_start) else 0,
            retry=retry,
            close_broker=close_broker,
        )

    def _make_keeper(self) -> Keeper:
        settings = self._manifest.settings
        return Keeper(
            self._ledger,
            self._executors,
            self._extensions,
            lease=self._lease,
            limit_grace=float(settings.get("worker_limit_grace") or 5.0),
            hook_deadline=float(settings.get("worker_hook_deadline") or 60.0),
            stalled=self._on_stalled,
            publish=self._status_file.write,
        )

    def _make_closing(self) -> Closing:
        return Closing(
            self._shutdown,
            self._ledger,
            self._dispatcher,
            self._executors,
            pump=self.pump,
            renewer=self._renewer,
            give_back=self._departures.give_back,
            announce=lambda reason: self._extensions.call_observe("kernel_worker_drain", worker=self, reason=reason),
        )

    def _make_orders(self) -> Orders:
        return Orders(
            self._ledger,
            self._dispatcher,
            self._keeper,
            revoked=self._revoked,
            admission=self._admission,
            meet=self._departures.meet,
            stop=lambda reason: self.stop(Stage.WARM, reason=reason),
        )

    # WorkerInfo ---------------------------------------------------------------------------------------------

    @property
    def hostname(self) -> str:
        return self._manifest.hostname

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._manifest.settings

    @property
    def queues(self) -> Sequence[str]:
        return self._manifest.queues

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        return self._manifest.to_json()["tasks"]  # type: ignore[no-any-return]

    @property
    def ready(self) -> bool:
        """Connected, and able to run a task."""
        return self._announced

    # run ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until `stop` was called and everything is settled; the exit status."""
        try:
            self._extensions.setup("kernel_worker_start", worker=self)
            self._extensions.bind()
            for readable, call in self._executors.selectables():
                self._loop.select(readable, call)
            self._executors.open(self)
            self.pump.start()
            self._renewer.start()
            self._keeper.start()
            while self._events or not self._closing.over():
                self._turn()
        finally:
            self._end()
        return self.status

    def on_ready(self, call: Callable[[], None]) -> None:
        """Have `call` called once it consumes."""
        self._ready_calls.append(call)

    @property
    def reason(self) -> str:
        """Why it ends."""
        return self._shutdown.reason

    def stop(
        self, stage: Stage = Stage.WARM, *, reason: str = "stop", status: int | None = None, at_once: bool = False
    ) -> None:
        """Ask the worker to end, from any thread or a signal handler; a later stage overrides an earlier.

        A cold end comes after `worker_soft_shutdown_timeout`, unless it is to come `at_once`.
        """
        self._shutdown.ask(stage, reason, at_once=at_once)
        if status is not None:
            self.status = max(self.status, status)
        self._loop.wake()

    def _turn(self) -> None:
        if self._dispatcher.watches or self._shutdown.stage is not Stage.RUN:
            timeout = _WATCH_SECONDS
        else:
            timeout = max(0.0, min(0.5, self._heartbeat_at - time.monotonic()))
        self._loop.wait(timeout)
        while self._events:
            self._on_event(self._events.popleft())
        while self._commands:
            self._orders.obey(self._commands.popleft())
        if self._shutdown.stage is not Stage.RUN:
            self._closing.advance()
        self._departures.flush()  # so early, since the pump's answers make room
        able, self._able = self._able, self._executors.ready
        if self._able:
            self._able_at = time.monotonic()
            if not able:
                self.pump.kick()  # it asked for room while nobody could run anything
            self._dispatcher.send()
            self._permits.allow(not len(self._dispatcher.ready) and self._shutdown.stage is Stage.RUN)
            self._announce()
        if self._dispatcher.watches:
            self._dispatcher.rescue()
        if time.monotonic() >= self._heartbeat_at:
            self._beat()
        self._departures.flush()

    def _announce(self) -> None:
        if not self._announced and self.pump.connected.is_set():
            self._announced = True
            _log.debug("%s is ready", self.hostname)
            self._command_reader.start()
            self._extensions.call_observe("kernel_worker_ready", worker=self)
            for call in self._ready_calls:
                call()

    def _beat(self) -> None:
        self._heartbeat_at = time.monotonic() + _HEARTBEAT_SECONDS
        self._executors.tick()
        if time.monotonic() - self._able_at > _UNABLE_SECONDS and len(self._dispatcher.ready):
            _log.error("no child can run anything: what was claimed goes back")
            self._dispatcher.withdraw(self._departures.give_back)
        processed = self._departures.processed
        snapshot = {"active": self._ledger.sent, "processed": processed, "loadavg": list(os.getloadavg())}
        self._extensions.call_observe("kernel_heartbeat", worker=self, snapshot=snapshot)

    # claiming -----------------------------------------------------------------------------------------------

    def _room(self) -> tuple[int, int]:
        if not self._executors.ready:
            return 0, 0
        return self._dispatcher.room(), max(1, _HELD_BYTES - self._ledger.bytes)

    def _post(self, event: Event) -> None:
        self._events.append(event)
        self._loop.wake()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Claimed):
            self._arrivals.take_in(event.deliveries, ends=self._shutdown.stage is not Stage.RUN)
        elif isinstance(event, WasSettled):
            for item in self._departures.settled(event.pairs, event.outcomes):
                self._arrivals.go_on(item)
            self._pace.settled(len(event.pairs), time.monotonic())
            self.pump.has_room()
        elif isinstance(event, WasStarted):
            for item, outcome in event.pairs:
                self._arrivals.recorded(item, outcome)
        elif isinstance(event, LeaseLost):
            # Others may have what nobody has begun here; if they have not, it comes back.
            self._dispatcher.withdraw(self._departures.give_back)
        elif isinstance(event, Failed):
            self.on_failed(f"the broker cannot be used: {event.error}")

    def _prepare(self, item: Item) -> None:
        self._arrivals.prepare(item)

    def _unsendable(self, item: Item, error: Exception) -> None:
        self._departures.unsendable(item, error)

    # commands -----------------------------------------------------------------------------------------------

    def _post_command(self, command: Command) -> None:
        self._commands.append(command)
        self._loop.wake()

    # ends ---------------------------------------------------------------------------------------------------

    def on_ended(self, ending: Ending) -> None:
        self._departures.ended(ending)

    def on_done(self, task: str, ends: Sequence[tuple[int, float]], records: Sequence[Record] = ()) -> None:
        self._departures.done(task, ends, records)

    def on_carried_out(self, steps: Sequence[Step]) -> None:
        running = self._departures.carried_out(steps)
        if running is not None:
            self._arrivals.went_on(running)
            if self._revoked.ends(running.id):
                self._keeper.terminate(running.seq)

    def on_dropped(self, seq: int, epoch: int) -> None:
        item = self._ledger.get(seq)
        if item is not None and item.place is Place.SENT and item.epoch == epoch:
            self._dispatcher.put_back(item)

    def on_report(self, topic: str, data: Mapping[str, Any]) -> None:
        self._extensions.call_observe("kernel_child_report", worker=self, topic=topic, data=data)

    def on_failed(self, text: str) -> None:
        if self._shutdown.stage is not Stage.COLD:
            _log.critical("%s", text)
            self.stop(Stage.COLD, reason=text, status=1, at_once=True)

    def on_death(self, death: Death) -> None:
        self._postmortem.hold(death)

    def select(self, readable: Any, call: Callable[[], None]) -> None:
        self._loop.select(readable, call)

    def unselect(self, readable: Any) -> None:
        self._loop.unselect(readable)

    # the lease ----------------------------------------------------------------------------------------------

    def _on_opened(self) -> None:
        """On the pump's thread, before it claims anything."""
        self._renewer.begin()
        self._broadcasts.start()

    def _on_lease_lost(self) -> None:
        """On the renewer's thread, and perhaps again: what runs is told once, where its runner can be."""
        for holding in self._executors.holdings():
            item = self._ledger.runs_as(holding.seq)
            if holding.started > 0 and item is not None and not (item.acked or item.lost):
                item.lost = True
                self._executors.mark(holding, slots.MARK_LEASE)
        self._post(LeaseLost())

    def _on_stalled(self, text: str) -> None:
        """On the keeper's thread, while the loop is stuck in a hook."""
        _log.critical("%s", text)
        self.status = 70
        self.pump.stop_claiming()
        if self._exit_when_stalled:
            self.pump.stop(timeout=5.0)
            self._status_file.remove()
            os._exit(70)
        self._shutdown.ask(Stage.COLD, text, at_once=True)

    # the end ------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Messages must go back and processes must end."""
        all_of(
            self._executors.terminate,
            lambda: self._broadcasts.stop(timeout=5.0),
            self._command_reader.stop,
            lambda: self._command_reader.join(timeout=5.0),
            self._departures.flush,
            self._stop_pump,
            self._renewer.stop,
            self._executors.close,
            lambda: self._extensions.call_observe("kernel_worker_end", worker=self),
            self._keeper.stop,  # so late, since it watches for plugins that block
            self._loop.close,
            self._status_file.remove,
        )

    def _stop_pump(self) -> None:
        if not self.pump.stop(timeout=15.0):
            _log.error("the broker did not take the last settlements in time; the lease gives the messages back")
            self.status = self.status or 1
