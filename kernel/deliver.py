"""`Delivering`: from publications to a broker that has them, with hooks, batches and second attempts."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from kernel import errors
from kernel.interfaces.broker import STORED, PublishOutcome, PublishState
from kernel.naming import new_id
from kernel.routing import spread

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.sender import Sender
    from kernel.message import Message, Publication
    from kernel.routing.topology import Topology

BATCH: Final = 1000
BATCH_BYTES: Final = 8 * 1024 * 1024
WHOLE: Final = 20_000
"""Messages of one canvas that go together where the broker stores a batch wholly or not at all."""
WHOLE_BYTES: Final = 64 * 1024 * 1024
DEADLINE: Final = 60.0
"""Seconds after which no further attempt is made, however many the policy has left."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When publishing is tried again: the setting `task_publish_retry_policy` under the option `retry_policy`.

    `max_retries` of None means as long as the app is open.
    """

    max_retries: int | None = 3
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 1.0
    retry_errors: tuple[type[BaseException], ...] = (errors.OperationalError,)

    @classmethod
    def once(cls) -> RetryPolicy:
        return cls(max_retries=0)

    @classmethod
    def of(cls, setting: Mapping[str, Any], option: Mapping[str, Any] | None) -> RetryPolicy:
        """Raises ValueError naming a key that is not known, and TypeError for what is no dictionary."""
        if option is not None and not isinstance(option, Mapping):
            raise TypeError(f"retry_policy is {option!r:.60}; a dictionary such as {{'max_retries': 5}} is needed")
        merged = {**setting, **(option or {})}
        unknown = merged.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise ValueError(
                f"retry_policy has no {', '.join(map(repr, sorted(unknown)))}; "
                f"it has {', '.join(cls.__dataclass_fields__)}"
            )
        merged["retry_errors"] = _error_classes(merged.get("retry_errors"))
        tries = merged.setdefault("max_retries", 3)
        if tries is not None and (isinstance(tries, bool) or not isinstance(tries, int) or tries < 0):
            raise ValueError(
                f"retry_policy['max_retries'] is {tries!r:.40}; a whole number of 0 or more or None is needed"
            )
        for name in ("interval_start", "interval_step", "interval_max"):
            merged[name] = _seconds(name, merged.get(name))
        return cls(**merged)

    def pause(self, attempts: int) -> float:
        """Seconds to wait after that many attempts."""
        return min(self.interval_max, self.interval_start + self.interval_step * (attempts - 1))

    def allows(self, attempts: int, error: BaseException) -> bool:
        """Whether there is another attempt after that many."""
        return isinstance(error, self.retry_errors) and (self.max_retries is None or attempts <= self.max_retries)


def _error_classes(value: Any) -> tuple[type[BaseException], ...]:
    found = tuple(value) if isinstance(value, tuple | list) else () if value is None else (value,)
    for item in found:
        if not isinstance(item, type) or not issubclass(item, BaseException):
            raise ValueError(f"retry_policy['retry_errors'] has {item!r:.60}; a tuple of exception classes is needed")
    return found or (errors.OperationalError,)


def _seconds(name: str, value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < threading.TIMEOUT_MAX:
        raise ValueError(f"retry_policy[{name!r}] is {value!r:.40}; a number of seconds of 0 or more is needed")
    return float(value)


class Way(Protocol):
    """Over what messages are sent: what the app has open, a connection of its own, or one of another library."""

    @property
    def broker(self) -> Sender:
        """Ready to send. Raises `OperationalError`."""
        ...

    @property
    def declared_queues(self) -> set[str]:
        """The queues that were made to exist on this way."""
        ...

    @property
    def shown(self) -> str:
        """Where it leads, as it may be shown to anyone."""
        ...


class Delivering:
    """Sends publications through the app's broker, or over another way. Usable from any thread."""

    def __init__(self, app: Kernel) -> None:
        self._app = app
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every pause between attempts."""
        self._stopped.set()

    def deliver(
        self,
        publications: Sequence[Publication],
        policy: RetryPolicy,
        way: Way | None = None,
        timeout: float | None = None,
        *,
        whole: bool = False,
    ) -> list[BaseException | None]:
        """One answer for each: None when it is stored, or the error. `timeout` is for each attempt, in seconds.
        `whole`: a part of them is of no use."""
        if len(publications) == 1:
            answers = self._deliver_batch(publications, policy, way, timeout)
        else:
            answers = []
            most = self._together(way) if whole and len(publications) > BATCH else (BATCH, BATCH_BYTES)
            for batch in _batches(publications, *most):
                answers.extend(self._deliver_batch(batch, policy, way, timeout))
        observers = self._app.extensions.hot.kernel_publish_end
        if observers:
            for publication, answer in zip(publications, answers, strict=True):
                self._app.extensions.observe(observers, publication, answer)
        return answers

    def _together(self, way: Way | None) -> tuple[int, int]:
        """How many messages, of how many bytes, of one canvas go in a batch."""
        # Where it cannot be opened, the attempt will tell.
        with contextlib.suppress(errors.OperationalError):
            broker = (way or self._app.opened).broker
            if getattr(getattr(broker, "capabilities", None), "atomic_batches", False):
                return WHOLE, WHOLE_BYTES
        return BATCH, BATCH_BYTES

    def _deliver_batch(
        self, batch: Sequence[Publication], policy: RetryPolicy, way: Way | None, timeout: float | None
    ) -> list[BaseException | None]:
        answers: list[BaseException | None] = [None] * len(batch)
        pending, sent = list(range(len(batch))), batch
        started = time.monotonic()
        attempts, unknown = 0, False
        while True:
            attempts += 1
            # What may have been stored already is told apart by whoever runs it: it looks for a record first.
            sent = [_again(item) for item in batch] if attempts > 1 else sent
            cause = self._attempt(sent, pending, answers, way or self._app.opened, timeout)
            if cause is None or not pending:
                return answers
            # From then on only those are pending that may have arrived; no later failure makes that undone.
            unknown = unknown or isinstance(cause, errors.PublishUnknown)
            spent = time.monotonic() - started
            over = policy.max_retries is not None and spent >= DEADLINE
            if over or not policy.allows(attempts, cause) or self._stopped.wait(policy.pause(attempts)):
                where = (way or self._app.opened).shown
                error = _gave_up(cause, attempts, spent, _many(len(pending)), where, unknown=unknown)
                for index in pending:
                    answers[index] = error
                    if unknown:
                        # Whoever gives it to us once more gives what may have been published.
                        batch[index].message = _again(batch[index]).message
                return answers

    def _attempt(
        self,
        batch: Sequence[Publication],
        pending: list[int],
        answers: list[BaseException | None],
        way: Way,
        timeout: float | None,
    ) -> BaseException | None:
        """Send what is pending; why some of it still is, or None. Final answers are filled in."""
        chosen = batch if len(pending) == len(batch) else [batch[index] for index in pending]
        try:
            broker = way.broker
            topology = self._app.publisher.routing.topology
            _declare(way, chosen, topology)
            opened = self._app.opened
            expect = opened.expect if way is opened else opened.expecting()
            if expect is not None:
                self._expect(expect, chosen)
            if any(item.exchange for item in chosen) and not spread.routes(broker):
                outcomes: Sequence[PublishOutcome] = spread.publish(
                    broker, chosen, topology, lambda copies: _publish(broker, copies, timeout)
                )
            else:
                outcomes = _publish(broker, chosen, timeout)
        except errors.OperationalError as exc:
            return exc
        if len(outcomes) != len(chosen):
            raise RuntimeError(f"the broker answered {len(outcomes)} outcomes for {len(chosen)} messages")
        if all(outcome is STORED for outcome in outcomes):
            return None
        unknown: list[int] = []
        reason = ""
        for index, outcome in zip(tuple(pending), outcomes, strict=True):
            if outcome.state is PublishState.REFUSED:
                answers[index] = _refused(batch[index], outcome.reason, way.shown)
            elif outcome.state is PublishState.UNKNOWN:
                unknown.append(index)
                reason = outcome.reason
        pending[:] = unknown
        return errors.PublishUnknown(reason or "the connection broke after the message left") if unknown else None

    def _expect(self, expect: Callable[[Sequence[str]], None], batch: Sequence[Publication]) -> None:
        """Results come to whoever called: calls that are answered here leave when answers can come in."""
        oid = self._app.oid
        ids = []
        for publication in batch:
            message = publication.message
            filled = message.filled
            # What can be known without reading the message is: most brokers never need it read here.
            properties = message.properties if filled is None else filled[0].properties
            if properties.get("reply_to") == oid:
                ids.append(message.id if filled is None else filled[1][0])
        if ids:
            expect(ids)


def _declare(way: Way, batch: Sequence[Publication], topology: Topology) -> None:
    """Make the queues exist that this process has not sent to before on this way."""
    declared = way.declared_queues
    if len(batch) == 1 and not batch[0].exchange and batch[0].queue in declared:
        return
    spread.declare(way.broker, batch, topology, declared)


def _publish(broker: Sender, batch: Sequence[Publication], timeout: float | None) -> Sequence[PublishOutcome]:
    return broker.publish(batch) if timeout is None else broker.publish(batch, timeout)


def _refused(publication: Publication, reason: str, where: str) -> errors.PublishRefused:
    return errors.PublishRefused(
        f"the broker {where} refused {_named(publication.message)} "
        f"for {_place(publication)}: {reason or 'no reason given'}"
    )


def _place(publication: Publication) -> str:
    if publication.exchange:
        return f"exchange {publication.exchange!r} with routing key {publication.routing_key!r}"
    return f"queue {publication.queue!r}"


def _named(message: Message) -> str:
    with contextlib.suppress(errors.InvalidTaskError):
        return f"task {message.task}[{message.id}]"
    return "a message"


def _many(count: int) -> str:
    return f"{count} messages" if count > 1 else "the message"


def _gave_up(
    cause: BaseException, attempts: int, spent: float, many: str, where: str, *, unknown: bool
) -> errors.OperationalError:
    tries = f"{attempts} attempt{'s' if attempts > 1 else ''} in {spent:.1f} s"
    if unknown:
        error: errors.OperationalError = errors.PublishUnknown(
            f"{many} may or may not be stored at {where} after {tries}: {cause}. "
            "Publishing again with the same task_id is safe"
        )
    else:
        error = errors.OperationalError(
            f"cannot publish {many} to {where} after {tries}: {cause}. "
            "Check that the broker runs and that broker_url is right; retry_policy says how long to try"
        )
    error.__cause__ = cause
    return error


def _batches(publications: Sequence[Publication], most: int, most_bytes: int) -> Iterator[Sequence[Publication]]:
    """In order, at most `most` messages and about `most_bytes` each."""
    batch: list[Publication] = []
    size = 0
    for publication in publications:
        weight = publication.message.size
        if batch and (len(batch) >= most or size + weight > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(publication)
        size += weight
    if batch:
        yield batch


def _again(item: Publication) -> Publication:
    """The same publication, told as one that may have been made before."""
    again = copy.copy(item)
    # What is no message is refused by the broker, with its reason.
    with contextlib.suppress(errors.InvalidTaskError):
        changes: dict[str, Any] = {"redelivered": True}
        if item.message.headers.get("kernel_copy"):
            changes["kernel_copy"] = new_id()
        again.message = item.message.replace_headers(**changes)
    return again
