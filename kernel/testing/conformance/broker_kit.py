"""What the cases of the broker kit stand on: the factory, the side doors, and a few helpers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kernel.interfaces.backend import Backend, ChordPart, Preparing, Record
from kernel.interfaces.broker import Broker, ConsumeOptions, Consumer, Delivery, QueueSpec, Settled, Settlement, Verdict
from kernel.message import Message, Publication
from kernel.testing.conformance.background import Background

AMPLE = 1 << 30


def make_message(body: bytes = b"[[], {}, {}]", /, **headers: Any) -> Message:
    """A small valid task message; `headers` are added to its id and task, or take their place."""
    return Message({"id": str(uuid.uuid4()), "task": "kit.task", **headers}, body, content_type="application/json")


def made(queue: str, count: int, **options: Any) -> list[Publication]:
    """`count` publications whose headers number them as ``n``."""
    return [Publication(make_message(n=number), queue, **options) for number in range(count)]


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.message.headers["n"] for delivery in deliveries]


def ack(deliveries: Sequence[Delivery]) -> list[Settlement]:
    return [Settlement(delivery, Verdict.ACK) for delivery in deliveries]


def ready(backend: Backend, record: Record) -> list[Record]:
    """The record as the broker of its domain takes it."""
    if not isinstance(backend, Preparing):
        return [record]
    prepared = backend.prepare(record)
    assert prepared is not None
    assert (prepared.id, prepared.state, prepared.attempt) == (record.id, record.state, record.attempt)
    return [prepared]


def ready_part(backend: Backend, part: ChordPart) -> ChordPart:
    """The part as the broker of its domain takes it."""
    return backend.prepare_part(part) if isinstance(backend, Preparing) else part


def ready_chord(backend: Backend, chord_id: str) -> str:
    """A completed chord as the broker of its domain takes it."""
    return backend.prepare_chord(chord_id) if isinstance(backend, Preparing) else chord_id


class BrokerKit:
    """Subclasses give `make_broker`, and open the side doors that they have."""

    short_lease = 1.0
    """Seconds of a lease that a test lets run out; the least that the broker takes."""
    patience = 10.0
    """Seconds that something may take which should happen at once; only a hang is longer."""

    def make_broker(self, tmp_path: Path) -> Broker:
        """A new broker on an empty store of its own (or on names that nobody else uses), not opened."""
        raise NotImplementedError("the test class of a broker gives make_broker(self, tmp_path)")

    def second(self, broker: Broker) -> Broker | None:
        """Another instance, not opened, on the same store; None where there can be none."""
        return None

    def make_backend(self, broker: Broker) -> Backend | None:
        """A result backend, not opened, of the same `transaction_domain`; needed to test `atomic_end`."""
        return None

    def raw_depth(self, broker: Broker, queue: str) -> int | None:
        """How many messages of `queue` the server holds in any state, found without the driver."""
        return None

    def kill_connections(self, broker: Broker) -> bool:
        """Cut the driver's connections as a network would; False where there are none."""
        return False

    def pass_time(self, seconds: float) -> None:
        """Let `seconds` go by on the broker's clock."""
        time.sleep(seconds)

    @pytest.fixture
    def broker(self, tmp_path: Path) -> Iterator[Broker]:
        broker = self.make_broker(tmp_path)
        broker.open()
        yield broker
        broker.close()

    @pytest.fixture
    def twin(self, broker: Broker) -> Iterator[Broker]:
        """The same store seen by another process, as far as one process can play that."""
        if not broker.capabilities.crosses_processes:
            pytest.skip("this broker does not cross processes")
        twin = self.second(broker)
        if twin is None:
            pytest.fail("a broker that crosses processes needs second(self, broker) to prove it")
        twin.open()
        yield twin
        twin.close()

    @pytest.fixture
    def backend(self, broker: Broker) -> Iterator[Backend]:
        """Not opened: the worker's engine settles before any backend of the app was."""
        self.needs(broker, "atomic_end")
        backend = self.make_backend(broker)
        if backend is None:
            pytest.fail("a broker that claims atomic_end needs make_backend(self, broker) to prove it")
        yield backend
        backend.close()

    @pytest.fixture
    def queue(self, broker: Broker) -> str:
        return self.new_queue(broker)

    @pytest.fixture
    def other(self, broker: Broker) -> str:
        return self.new_queue(broker)

    def new_queue(self, broker: Broker, prefix: str = "kit") -> str:
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        broker.declare([QueueSpec(name)])
        return name

    def needs(self, broker: Broker, capability: str) -> None:
        if not getattr(broker.capabilities, capability):
            pytest.skip(f"this broker does not claim {capability}")

    def lacks(self, broker: Broker, capability: str) -> None:
        if getattr(broker.capabilities, capability):
            pytest.skip(f"this broker claims {capability}")

    def consume(self, broker: Broker, *queues: str, lease: float = 30.0, limit: int | None = 10) -> Consumer:
        owner = f"kit-{uuid.uuid4().hex[:8]}"
        return broker.consume(queues, ConsumeOptions(owner=owner, lease=lease, delivery_limit=limit))

    def gather(self, consumer: Consumer, count: int, *, at_once: int = 100) -> list[Delivery]:
        """`count` deliveries, in as many fetches as it takes; fewer when patience ends."""
        deadline = time.monotonic() + self.patience
        taken: list[Delivery] = []
        while len(taken) < count and time.monotonic() < deadline:
            taken += consumer.fetch(min(at_once, count - len(taken)), AMPLE, 0.5)
        return taken

    def nothing(self, consumer: Consumer) -> bool:
        """Whether there is nothing to fetch, asked twice: a broker may need a moment to hand something out."""
        return not consumer.fetch(10, AMPLE, 0.05) and not consumer.fetch(10, AMPLE, 0.15)

    def one(self, consumer: Consumer) -> Delivery:
        taken = self.gather(consumer, 1)
        assert len(taken) == 1, f"expected one delivery within {self.patience} s, got {len(taken)}"
        return taken[0]

    def in_time(self, since: float) -> bool:
        """Whether a lease that was taken at `since` (monotonic) can still run, however slow this machine is."""
        return time.monotonic() - since < self.short_lease * 0.9

    def give_up(self, consumer: Consumer, delivery: Delivery, **how: Any) -> None:
        """Requeue, and see it done."""
        assert [*consumer.settle([Settlement(delivery, Verdict.REQUEUE, **how)])] == [Settled.DONE]

    def in_thread(self, work: Callable[[], object]) -> Background:
        return Background(work, self.patience)
