"""`Delivering`: from publications to a broker that has them, with hooks, batches and second attempts."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kernel import errors
from kernel.interfaces.broker import STORED, PublishState, QueueSpec

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.message import Publication

BATCH: Final = 1000
BATCH_BYTES: Final = 8 * 1024 * 1024
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
        """Raises ValueError naming a key that is not known."""
        merged = {**setting, **(option or {})}
        unknown = merged.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise ValueError(
                f"retry_policy has no {', '.join(map(repr, sorted(unknown)))}; "
                f"it has {', '.join(cls.__dataclass_fields__)}"
            )
        found = merged.get("retry_errors")
        merged["retry_errors"] = tuple(found) if found else (errors.OperationalError,)
        for name in ("interval_start", "interval_step", "interval_max"):
            merged[name] = float(merged.get(name) or 0)
        return cls(**merged)

    def pause(self, attempts: int) -> float:
        """Seconds to wait after that many attempts."""
        return min(self.interval_max, self.interval_start + self.interval_step * (attempts - 1))

    def allows(self, attempts: int, error: BaseException) -> bool:
        """Whether there is another attempt after that many."""
        return isinstance(error, self.retry_errors) and (self.max_retries is None or attempts <= self.max_retries)


class Delivering:
    """Sends publications through the app's broker. Usable from any thread."""

    def __init__(self, app: Kernel) -> None:
        self._app = app
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every pause between attempts."""
        self._stopped.set()

    def deliver(self, publications: Sequence[Publication], policy: RetryPolicy) -> list[BaseException | None]:
        """One answer for each: None when it is stored, or the error."""
        if len(publications) == 1:
            answers = self._deliver_batch(publications, policy)
        else:
            answers = []
            for batch in _batches(publications):
                answers.extend(self._deliver_batch(batch, policy))
        observers = self._app.extensions.hot.kernel_publish_end
        if observers:
            for publication, answer in zip(publications, answers, strict=True):
                self._app.extensions.observe(observers, publication, answer)
        return answers

    def _deliver_batch(self, batch: Sequence[Publication], policy: RetryPolicy) -> list[BaseException | None]:
        answers: list[BaseException | None] = [None] * len(batch)
        pending, sent = list(range(len(batch))), batch
        started = time.monotonic()
        attempts, unknown = 0, False
        while True:
            attempts += 1
            # What may have been stored already is told apart by whoever runs it: it looks for a record first.
            sent = [_again(item) for item in batch] if attempts == 2 else sent
            cause = self._attempt(sent, pending, answers)
            if cause is None or not pending:
                return answers
            # From then on only those are pending that may have arrived; no later failure makes that undone.
            unknown = unknown or isinstance(cause, errors.PublishUnknown)
            spent = time.monotonic() - started
            over = policy.max_retries is not None and spent >= DEADLINE
            if over or not policy.allows(attempts, cause) or self._stopped.wait(policy.pause(attempts)):
                error = self._gave_up(cause, attempts, spent, len(pending), unknown=unknown)
                for index in pending:
                    answers[index] = error
                return answers

    def _attempt(
        self, batch: Sequence[Publication], pending: list[int], answers: list[BaseException | None]
    ) -> BaseException | None:
        """Send what is pending; why some of it still is, or None. Final answers are filled in."""
        chosen = batch if len(pending) == len(batch) else [batch[index] for index in pending]
        try:
            broker = self._app.broker
            self._declare(chosen)
            if self._app.opened.expect is not None:
                self._expect(self._app.opened.expect, chosen)
            outcomes = broker.publish(chosen)
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
                answers[index] = self._refused(batch[index], outcome.reason)
            elif outcome.state is PublishState.UNKNOWN:
                unknown.append(index)
                reason = outcome.reason
        pending[:] = unknown
        return errors.PublishUnknown(reason or "the connection broke after the message left") if unknown else None

    def _declare(self, batch: Sequence[Publication]) -> None:
        """Make the queues exist that this process has not sent to before."""
        declared = self._app.opened.declared_queues
        if len(batch) == 1 and batch[0].queue in declared:
            return
        new = {publication.queue for publication in batch} - declared
        if new:
            self._app.broker.declare([QueueSpec(name) for name in sorted(new)])
            declared.update(new)

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

    def _refused(self, publication: Publication, reason: str) -> errors.PublishRefused:
        message = publication.message
        return errors.PublishRefused(
            f"the broker {self._app.addresses.broker_shown} refused task {message.task}[{message.id}] "
            f"for queue {publication.queue!r}: {reason or 'no reason given'}"
        )

    def _gave_up(
        self, cause: BaseException, attempts: int, spent: float, count: int, *, unknown: bool
    ) -> errors.OperationalError:
        tries = f"{attempts} attempt{'s' if attempts > 1 else ''} in {spent:.1f} s"
        many = f"{count} messages" if count > 1 else "the message"
        where = self._app.addresses.broker_shown
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


def _batches(publications: Sequence[Publication]) -> Iterator[Sequence[Publication]]:
    """In order, at most `BATCH` messages and about `BATCH_BYTES` each."""
    batch: list[Publication] = []
    size = 0
    for publication in publications:
        weight = publication.message.size
        if batch and (len(batch) >= BATCH or size + weight > BATCH_BYTES):
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
        again.message = item.message.replace_headers(redelivered=True)
    return again
