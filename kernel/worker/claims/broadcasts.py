"""What is sent to all workers, on brokers where it is heard and not kept.

Each topic has a thread, since that waits. What it hears goes into a queue of this worker alone, and is from then on a
message like any other: claimed under a lease, counted, retried, kept as a dead letter.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from kernel import errors
from kernel.interfaces.broker import Broker, PublishState
from kernel.message import Message, Publication
from kernel.worker.claims.hearing import Hearing

_log: Final = logging.getLogger("kernel.worker")

_PAUSE: Final = 1.0


class Broadcasts:
    """Listens to the topics of `heard` and puts what comes into the queues that they are mapped to. Usable from any
    thread."""

    def __init__(self, broker: Broker, heard: Mapping[str, Sequence[str]]) -> None:
        self._readers = [_Reader(broker, topic, queues) for topic, queues in heard.items()]

    def start(self) -> None:
        """Listen from now on; where the broker is away again, as soon as it is back."""
        for reader in self._readers:
            reader.start()

    def stop(self, timeout: float) -> None:
        """Hear nothing more; what was heard is stored."""
        for reader in self._readers:
            reader.stop()
        for reader in self._readers:
            reader.join(timeout)


class _Reader:
    def __init__(self, broker: Broker, topic: str, queues: Sequence[str]) -> None:
        self._broker = broker
        self._topic = topic
        self._queues = queues
        self._hearing = Hearing(
            broker, topic, name=f"kernel-broadcasts-{topic}", take=self._take, failed=self._failed, pause=_PAUSE
        )

    def start(self) -> None:
        try:
            self._hearing.subscribe()
        except errors.OperationalError as exc:
            _log.warning("%r is not heard yet: %s", self._topic, exc)
        self._hearing.start()

    def stop(self) -> None:
        self._hearing.stop()

    def join(self, timeout: float) -> None:
        self._hearing.join(timeout)

    def _failed(self, error: Exception) -> None:
        _log.warning("%r is not heard, next try in %.0fs: %s", self._topic, _PAUSE, error)

    def _take(self, messages: Sequence[Message]) -> None:
        self._keep([copy for message in messages for copy in self._copies(message)])

    def _copies(self, message: Message) -> list[Publication]:
        due = _due(message)
        return [Publication(message, queue, priority=message.priority, due=due) for queue in self._queues]

    def _keep(self, batch: Sequence[Publication]) -> None:
        """Store them, however often that takes: nobody else has this worker's copies."""
        left = batch
        while left:
            try:
                outcomes = self._broker.publish(left)
            except errors.OperationalError as exc:
                _log.warning("what was heard on %r cannot be stored, next try in %.0fs: %s", self._topic, _PAUSE, exc)
            else:
                pairs = list(zip(left, outcomes, strict=True))
                for item, outcome in pairs:
                    if outcome.state is PublishState.REFUSED:
                        _log.error("%r, heard on %r, was refused: %s", item.message, self._topic, outcome.reason)
                left = [item for item, outcome in pairs if outcome.state is PublishState.UNKNOWN]
            if left and self._hearing.stopped.wait(_PAUSE):
                _log.error("%d messages heard on %r are lost: the worker ends", len(left), self._topic)
                return


def _due(message: Message) -> float | None:
    """When it is due, in Unix seconds, where its headers say so."""
    try:
        eta = message.headers.get("eta")
        moment = datetime.fromisoformat(eta) if isinstance(eta, str) else None
    except (errors.InvalidTaskError, ValueError):
        return None
    return moment.timestamp() if moment is not None and moment.tzinfo is not None else None
