"""The engine: one loop that admits, dispatches and settles, and never runs user code.

The pump thread talks to the broker, the renewer keeps the lease, the keeper watches time limits and hooks;
everything else happens here, on the thread that calls `run`. The life of a message reads down this file:
`_take_in`, `_dispatch`, `on_ended`, `_on_settled`.
"""

from __future__ import annotations

import logging
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kernel import errors, states
from kernel.extensions import Extensions
from kernel.interfaces.broker import Broker, ConsumeOptions, Delivery, QueueSpec, Settled, Settlement, Verdict
from kernel.interfaces.outcome import DeadLetter, Delay, Skip
from kernel.worker import slots
from kernel.worker.assignment import Ending, Obituary
from kernel.worker.commands import Command, CommandReader, Revoked, task_ids
from kernel.worker.dispatch import Dispatcher
from kernel.worker.executors import Death, Executors
from kernel.worker.failpoints import Failpoints
from kernel.worker.intake import Intake
from kernel.worker.keeper import Keeper
from kernel.worker.lease import Renewer
from kernel.worker.ledger import Item, Ledger, Place
from kernel.worker.manifest import Manifest
from kernel.worker.pace import Pace
from kernel.worker.postmortem import judge
from kernel.worker.pump import Claimed, Event, Failed, Pump, WasSettled, WasStarted
from kernel.worker.shutdown import Shutdown, Stage
from kernel.worker.status import StatusFile
from kernel.worker.waker import Waker

_log = logging.getLogger("kernel.worker")

_HEARTBEAT_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 0.01
_HELD_BYTES: Final = 64 << 20
_OBITUARY_TRIES: Final = 3


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
        self._pace = Pace()
        self._intake = Intake(manifest, delivery_limit=self._limit)
        self._events: deque[Event] = deque()
        self._commands: deque[Command] = deque()
        self._revoked = Revoked()
        self._waker = Waker()
        self._selector = selectors.DefaultSelector()
        self._dispatcher = self._make_dispatcher()
        self.pump = self._make_pump(broker, close_broker=owns_broker)
        self._renewer = Renewer(self.pump, self._lease, held=executors.set_lease, lost=self._on_lease_lost)
        self._status_file = StatusFile(manifest.hostname)
        self._keeper = self._make_keeper()
        self._command_reader = CommandReader(broker, manifest.hostname, self._post_command)
        self._shutdown = Shutdown(float(settings.get("worker_soft_shutdown_timeout") or 0.0))
        self._heartbeat_at = 0.0
        self._able = False
        self._announced = False
        self._ready_calls: list[Callable[[], None]] = []
        self._drained_children = False
        self.processed = 0
        self.stale = 0
        self.status = 0

    def _make_dispatcher(self) -> Dispatcher:
        settings = self._manifest.settings
        return Dispatcher(
            self._ledger,
            self._pace,
            self._executors,
            prepare=self._prepare,
            prefetch=settings.get("worker_prefetch_multiplier"),
            # A child that is to be replaced after so many tasks must not be handed more of them together.
            share=not settings.get("worker_max_tasks_per_child"),
        )

    def _make_pump(self, broker: Broker, *, close_broker: bool) -> Pump:
        settings = self._manifest.settings
        retry = settings.get("broker_connection_retry", True)
        return Pump(
            broker,
            [QueueSpec(name) for name in self._manifest.queues],
            ConsumeOptions(owner=self.hostname, lease=self._lease, delivery_limit=self._limit),
            room=self._room,
            post=self._post,
            failpoints=self.failpoints,
            connect_retries=settings.get("broker_connection_max_retries", 100) if retry else 0,
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
        self._extensions.setup("kernel_worker_start", worker=self)
        self._hot = self._extensions.bind()
        self._select(self._waker, self._waker.reset)
        for readable, call in self._executors.selectables():
            self._select(readable, call)
        try:
            self._executors.open(self)
            self.pump.start()
            self._renewer.start()
            self._keeper.start()
            while not self._over():
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

    def stop(self, stage: Stage = Stage.WARM, *, reason: str = "stop", status: int | None = None) -> None:
        """Ask the worker to end, from any thread or a signal handler; a later stage overrides an earlier."""
        self._shutdown.ask(stage, reason)
        if status is not None:
            self.status = max(self.status, status)
        self._waker.wake()

    def select(self, readable: Any, call: Callable[[], None]) -> None:
        """Have `call` called on the loop when `readable` is."""
        self._select(readable, call)

    def unselect(self, readable: Any) -> None:
        try:
            self._selector.unregister(readable)
        except (KeyError, ValueError):
            return

    def _select(self, readable: Any, call: Callable[[], None]) -> None:
        self._selector.register(readable, selectors.EVENT_READ, call)

    def _turn(self) -> None:
        if self._dispatcher.watches or self._shutdown.stage is not Stage.RUN:
            timeout = _WATCH_SECONDS
        else:
            timeout = max(0.0, min(0.5, self._heartbeat_at - time.monotonic()))
        for key, _ in self._selector.select(timeout):
            key.data()
        while self._events:
            self._on_event(self._events.popleft())
        while self._commands:
            self._obey(self._commands.popleft())
        if self._shutdown.stage is not Stage.RUN:
            self._advance_shutdown()
        able, self._able = self._able, self._executors.ready
        if self._able:
            if not able:
                self.pump.kick()  # it asked for room while nobody could run anything
            self._dispatcher.send()
            self._announce()
        if self._dispatcher.watches:
            self._dispatcher.rescue()
        if time.monotonic() >= self._heartbeat_at:
            self._beat()

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
        snapshot = {"active": self._ledger.sent, "processed": self.processed, "loadavg": list(os.getloadavg())}
        self._extensions.call_observe("kernel_heartbeat", worker=self, snapshot=snapshot)

    # claiming -----------------------------------------------------------------------------------------------

    def _room(self) -> tuple[int, int]:
        if not self._executors.ready:
            return 0, 0
        return self._dispatcher.room(), max(1, _HELD_BYTES - self._ledger.bytes)

    def _post(self, event: Event) -> None:
        self._events.append(event)
        self._waker.wake()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Claimed):
            for delivery in event.deliveries:
                self._take_in(delivery)
        elif isinstance(event, WasSettled):
            for item, settlement, outcome in event.pairs:
                self._on_settled(item, settlement, outcome)
            self._pace.settled(len(event.pairs), time.monotonic())
            self.pump.kick()
        elif isinstance(event, WasStarted):
            for item, outcome in event.pairs:
                self._on_recorded(item, outcome)
        elif isinstance(event, Failed):
            self.on_failed(f"the broker cannot be used: {event.error}")

    def _take_in(self, delivery: Delivery) -> None:
        """A claimed message: what becomes of it is known from its headers."""
        item = self._ledger.enter(delivery)
        try:
            self._intake.read(item)
            early = self._intake.early(item)
        except (errors.InvalidTaskError, errors.NotRegistered) as exc:
            self._on_invalid(item, exc)
            return
        if self._shutdown.stage is not Stage.RUN:
            self._settle(item, Verdict.REQUEUE)
            return
        if self._hot.kernel_message_received:
            self._extensions.observe(self._hot.kernel_message_received, delivery)
        spent = self._intake.spent(item)
        if spent is not None:
            self._bury(item, spent)
        elif early:
            self._settle(item, Verdict.REQUEUE, delay=early)
        else:
            self._admit(item)

    def _admit(self, item: Item) -> None:
        if self._revoked and item.id in self._revoked:
            self._bury(item, Obituary(states.REVOKED, "TaskRevokedError", "revoked"))
            return
        hooks = self._hot.kernel_task_admit
        try:
            answer = self._extensions.first("kernel_task_admit", hooks, item.delivery) if hooks else None
        except Exception as exc:
            # Nobody knows whether it may run. Kept with the reason, it can be retried when the plugin is mended.
            _log.exception("kernel_task_admit failed for task %s[%s]; it is kept as a dead letter", item.name, item.id)
            text = f"kernel_task_admit failed: {type(exc).__name__}: {exc}"[:2000]
            answer = DeadLetter("; ".join([text, *getattr(exc, "__notes__", ())]))
        if not self._act_on(answer, item):
            self._dispatcher.ready.add(item)

    def _act_on(self, answer: object, item: Item) -> bool:
        """Whether the answer of a plugin decided about the message."""
        if isinstance(answer, Skip):
            error = "TaskRevokedError" if answer.state == states.REVOKED else "TaskError"
            self._bury(item, Obituary(answer.state, error, answer.reason, Verdict.ACK))
        elif isinstance(answer, Delay):
            self._settle(item, Verdict.REQUEUE, delay=answer.seconds)
        elif isinstance(answer, DeadLetter):
            self._bury(item, Obituary(states.FAILURE, "InvalidTaskError", answer.reason, Verdict.DEAD))
        else:
            return False
        return True

    def _on_invalid(self, item: Item, error: errors.KernelError) -> None:
        try:
            answer = self._extensions.decide("kernel_message_invalid", delivery=item.delivery, error=error)
        except Exception as exc:
            _log.error("kernel_message_invalid failed: %s", exc)
            answer = None
        if self._act_on(answer, item):
            return
        _log.error("message kept as a dead letter, queue %r: %s", item.delivery.queue, error)
        reason = f"{type(error).__name__}: {error}"[:2000]
        if item.id and item.name:  # a waiting caller can be told
            self._bury(item, Obituary(states.FAILURE, type(error).__name__, reason, Verdict.DEAD))
        else:
            self._settle(item, Verdict.DEAD, reason=reason)

    def _prepare(self, item: Item) -> None:
        """What must be on the broker before it may start."""
        if item.early_ack:
            self.pump.settle(item, Settlement(item.delivery, Verdict.ACK))
        else:
            self.pump.begin(item)

    def _on_recorded(self, item: Item, outcome: Settled) -> None:
        if outcome is Settled.STALE:
            self._dispatcher.end_preparing()
            self._forget_stale(item)
        else:
            self._dispatcher.prepared(item)

    # commands -----------------------------------------------------------------------------------------------

    def _post_command(self, command: Command) -> None:
        self._commands.append(command)
        self._waker.wake()

    def _obey(self, command: Command) -> None:
        if command.method == "shutdown":
            self.stop(Stage.WARM, reason="shutdown by command")
        elif command.method == "revoke":
            try:
                ids = set(task_ids(command.arguments))
            except errors.InvalidTaskError as exc:
                _log.warning("a revoke was dropped: %s", exc)
                return
            self._revoke(ids, terminate=bool(command.arguments.get("terminate")))
        else:
            _log.debug("the command %r is unknown here", command.method)

    def _revoke(self, ids: set[str], *, terminate: bool) -> None:
        for task_id in ids:
            self._revoked.add(task_id)
        for item in self._ledger:
            if item.id not in ids or item.obituary is not None:
                continue
            if item.place is Place.WAITING and self._dispatcher.ready.remove(item):
                self._bury(item, Obituary(states.REVOKED, "TaskRevokedError", "revoked"))
            elif item.place is Place.SENT and terminate:
                self._keeper.terminate(item.seq)

    # ends ---------------------------------------------------------------------------------------------------

    def on_ended(self, ending: Ending) -> None:
        item = self._ledger.get(ending.seq)
        if item is None or item.place is not Place.SENT:
            return  # of a number that was taken back
        self.processed += 1
        item.state = ending.state
        if ending.task:
            self._pace.note(ending.task, ending.runtime)
        if item.acked:
            self._ledger.leave(item)
            return
        self._ledger.move(item, Place.SETTLING)
        settlement = Settlement(
            item.delivery,
            ending.verdict,
            delay=ending.delay,
            charged=ending.charged,
            reason=ending.reason,
            # Where an end is no single transaction, both were carried out before the ending came.
            records=ending.records if self._manifest.atomic_end else (),
            publications=ending.publications if self._manifest.atomic_end else (),
        )
        self.pump.settle(item, settlement)

    def on_dropped(self, seq: int, epoch: int) -> None:
        item = self._ledger.get(seq)
        if item is not None and item.place is Place.SENT and item.epoch == epoch:
            self._dispatcher.put_back(item)

    def on_report(self, topic: str, data: Mapping[str, Any]) -> None:
        self._extensions.call_observe("kernel_child_report", worker=self, topic=topic, data=data)

    def on_failed(self, text: str) -> None:
        if self._shutdown.stage is not Stage.COLD:
            _log.critical("%s", text)
            self.stop(Stage.COLD, reason=text, status=1)

    def on_death(self, death: Death) -> None:
        """A child is gone: nothing that it held may wait for the lease, which this engine goes on renewing."""
        accounts = self._ledger.account(death.held, death.living)
        for item in accounts.unstarted:
            self._dispatcher.put_back(item)
        for item in accounts.running:
            item.attempts += 1
            cold = self._shutdown.stage is Stage.COLD
            facts = self._manifest.tasks.get(item.name)
            fate = judge(item, death, facts, limit=self._limit, cold=cold, tries=_OBITUARY_TRIES)
            if fate.obituary is not None:
                self._bury(item, fate.obituary)
            else:
                self._settle(item, fate.verdict, charged=fate.charged, delay=fate.delay, reason=fate.reason)

    def _bury(self, item: Item, obituary: Obituary) -> None:
        """End it without running it: a child carries out the end."""
        item.obituary = obituary
        self._ledger.move(item, Place.WAITING)
        self._dispatcher.ready.add_front(item)

    def _settle(
        self, item: Item, verdict: Verdict, *, charged: bool = False, delay: float = 0.0, reason: str = ""
    ) -> None:
        if item.acked:
            self._ledger.leave(item)
            return
        self._ledger.move(item, Place.SETTLING)
        self.pump.settle(item, Settlement(item.delivery, verdict, charged=charged, delay=delay, reason=reason))

    def _on_settled(self, item: Item, settlement: Settlement, outcome: Settled) -> None:
        preparing = item.place is Place.PREPARING  # acknowledged early, still to run
        if outcome is Settled.STALE:
            if preparing:
                self._dispatcher.end_preparing()
            self._forget_stale(item)
            return
        if self._hot.kernel_message_settled:
            self._extensions.observe(self._hot.kernel_message_settled, item.delivery, settlement.verdict)
        if preparing:
            item.acked = True
            self._dispatcher.prepared(item)
        else:
            self._ledger.leave(item)

    def _forget_stale(self, item: Item) -> None:
        self.stale += 1
        _log.warning("the lease of %s[%s] was lost: what it did here was refused", item.name, item.id)
        self._ledger.leave(item)

    # the lease ----------------------------------------------------------------------------------------------

    def _on_lease_lost(self) -> None:
        """On the renewer's thread: what runs is told, where its runner can be."""
        _log.error("the lease of this worker ran out: what it holds may be run by others; their results count")
        for holding in self._executors.holdings():
            if holding.started:
                self._executors.mark(holding, slots.MARK_LEASE)

    def _on_stalled(self, text: str) -> None:
        """On the keeper's thread, while the loop is stuck in a hook."""
        _log.critical("%s", text)
        self.status = 70
        self.pump.stop_claiming()
        if self._exit_when_stalled:
            self.pump.stop(timeout=5.0)
            self._status_file.remove()
            os._exit(70)
        self._shutdown.ask(Stage.COLD, text)

    # the end ------------------------------------------------------------------------------------------------

    def _over(self) -> bool:
        if self._shutdown.past_patience:
            return True
        if self._shutdown.stage is Stage.RUN or len(self._ledger) or self._events:
            return False
        if not self._drained_children:
            self._drained_children = True
            self._executors.drain()
        return self._executors.finished

    def _advance_shutdown(self) -> None:
        if self._shutdown.begins:
            _log.info("%s shutdown: %s", self._shutdown.stage.value, self._shutdown.reason)
            self.pump.stop_claiming()
            self._extensions.call_observe("kernel_worker_drain", worker=self, reason=self._shutdown.reason)
        if self._shutdown.stage is Stage.COLD:
            self._executors.terminate()
            self._abandon()
        else:
            self._dispatcher.withdraw(lambda item: self._settle(item, Verdict.REQUEUE))

    def _abandon(self) -> None:
        """Cold: whatever has not ended goes back, uncharged, as soon as nothing can run it any more."""
        for item in self._dispatcher.ready.clear():
            self._settle(item, Verdict.REQUEUE)
        if self._executors.finished or self._shutdown.past_patience:
            for item in self._ledger:
                if item.place is Place.SENT:
                    self._settle(item, Verdict.REQUEUE)

    def _end(self) -> None:
        self._keeper.stop()
        self._executors.terminate()
        self._command_reader.stop()
        self._command_reader.join(timeout=5.0)
        settled = self.pump.stop(timeout=15.0)
        self._renewer.stop()
        if not settled:
            _log.error("the broker did not take the last settlements in time; the lease gives the messages back")
            self.status = self.status or 1
        self._executors.close()
        self._extensions.call_observe("kernel_worker_end", worker=self)
        self._selector.close()
        self._waker.close()
        self._status_file.remove()
