"""The broker: keeps messages, hands them out under leases, and takes them back.

A broker is used by two sides. A client publishes. A worker opens a `Consumer`, which owns a lease: every
message it fetched is its own until it settles it, gives it back, or lets the lease run out. All rules of
claiming (what is due, whose lease ran out, how often a message was started) are the broker's to apply
atomically; the worker only says what it wants.

Every method may be called from any thread unless it says otherwise. A method that cannot reach the server
raises `OperationalError` within the timeout it was given (`BrokerConfig.timeout` where it has none).
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from kernel.interfaces.backend import ChordPart, Record
from kernel.interfaces.broker_config import BrokerConfig as BrokerConfig  # noqa: PLC0414 - brokers find it here
from kernel.interfaces.setting import Setting
from kernel.message import Message, Publication

INTERFACE = (1, 0)


@dataclass(frozen=True, slots=True)
class BrokerCapabilities:
    """What a broker can do; the conformance kit tests each claim, and tests that the rest is refused."""

    crosses_processes: bool = True
    durable: bool = True
    priorities: bool = True
    low_first: bool = False
    """Priority 0 is handed out first, as Celery documents it for Redis, and neighbours may share a step."""
    delays: bool = True
    dead_letters: bool = True
    broadcast: bool = True
    pause: bool = True
    atomic_end: bool = False
    """`settle` stores records and publications in the same transaction as the settlement."""
    atomic_batches: bool = False
    """`publish` stores all messages of a batch that are due now, or none of them, if the process dies meanwhile."""
    atomic_chords: bool = False
    """With `atomic_end`: what an end means for its chord is in that transaction, too."""
    shortcuts: bool = False
    """With `atomic_end`: whoever runs a task may settle it by itself (`kernel.interfaces.shortcut`)."""
    glances: bool = True
    """Waiting messages can be looked at without a trace. Where they cannot, one that was peeked at may come as `seen`,
    and nothing tells how old the oldest is."""
    max_bytes: int | None = None
    exchanges: bool = False
    """Routes by itself (`Exchanges`): a publication with an exchange goes there with its routing key. For others the
    kernel finds the queues, from its own settings and from what the broker remembers (`Bindings`)."""
    keeps_fanouts: bool = True
    """What is sent to a fanout exchange waits in the queues that are bound to it. Where not, each worker that consumes
    such a queue hears what is sent while it is there, as with Celery on Redis."""


class PublishState(enum.Enum):
    STORED = "stored"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """The connection broke after the message left. Publishing again with the same id is safe."""


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    state: PublishState
    reason: str = ""


STORED = PublishOutcome(PublishState.STORED)


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """An exchange to be declared. `type` is ``direct``, ``topic``, ``fanout``, ``headers`` or one of a server's own."""

    name: str
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BindingSpec:
    """A queue's binding to an exchange."""

    exchange: ExchangeSpec
    routing_key: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What decides who takes a message, as one text: the routing key, or the arguments as JSON where the exchange
        is of type ``headers``."""
        if self.exchange.type != "headers":
            return self.routing_key
        return json.dumps(self.arguments, sort_keys=True, separators=(",", ":"), default=str)


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue to be declared, with its bindings. Brokers that route use all of it; those that remember bindings use
    them, too; others need only the name."""

    name: str
    bindings: Sequence[BindingSpec] = ()
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    max_priority: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bound:
    """That `queue` takes what is sent to an exchange with a routing key like this one (`BindingSpec.key`). `type` is
    what the broker remembers of the exchange's."""

    queue: str
    routing_key: str
    type: str = "direct"


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """How a consumer claims. `lease` is in seconds on the broker's clock.

    `delivery_limit` is the number of starts that never ended after which the worker keeps a message as a dead
    letter (None: no limit). The broker hands such a message out like any other, with its `starts`: the worker
    settles it DEAD and stores its record, so that whoever waits for it wakes. A broker whose server counts by
    itself sets the server's own limit above this one.
    """

    owner: str
    lease: float = 30.0
    delivery_limit: int | None = 10


class Delivery:
    """A claimed message.

    `token` is new for every claim: settlements carry it, and one with an old token is refused. `starts` counts
    the recorded starts that never ended, as it was when this claim was made. `seen` is True when the message was
    claimed before, by anyone.
    `key` is for the broker's own use. `queue` is where it was claimed from.
    With `advanced` the claim was made of another message, whose end is stored and was followed by this one
    (`kernel.interfaces.shortcut`): what goes back or is kept as a dead letter is this one.
    """

    __slots__ = ("advanced", "claimed_at", "key", "message", "queue", "seen", "size", "starts", "token")

    def __init__(
        self,
        message: Message,
        queue: str,
        token: str,
        *,
        key: Any = None,
        starts: int = 0,
        seen: bool = False,
        claimed_at: float = 0.0,
    ) -> None:
        self.message = message
        self.queue = queue
        self.token = token
        self.key = key
        self.starts = starts
        self.seen = seen
        self.claimed_at = claimed_at
        self.advanced = False
        self.size = message.size


class Verdict(enum.Enum):
    """What becomes of a claimed message."""

    ACK = "ack"
    REQUEUE = "requeue"
    DEAD = "dead"


class Settlement:
    """The end of one claim.

    REQUEUE puts the message back in front of its queue, `delay` seconds from now; with `charged` the claim
    counts as a start that never ended: once, whether `Consumer.start` recorded it or not. Without `charged` a start
    that was recorded in this claim no longer counts. DEAD keeps it as a dead letter with `reason`; its starts are
    counted by the same rule.
    `records` and `publications` belong to the same end; only a broker with `atomic_end` is given any, and records
    as `Preparing.prepare` made them where its backend does that. So do `parts` and `completes`, with `atomic_chords`.
    `parts` are brought to chords as by `Backend.chord_parts` (see `Settled.JOINED` and `STANDING`). `completes` is the
    id of a chord whose body is among the publications: it is forgotten, as by `Backend.begin_body`; if it had been
    forgotten before, its body is out already, and neither records nor publications are stored.
    `early`: an ACK of what has yet to run, and runs only if the claim stands.
    """

    __slots__ = (
        "charged",
        "completes",
        "delay",
        "delivery",
        "early",
        "parts",
        "publications",
        "reason",
        "records",
        "verdict",
    )

    def __init__(
        self,
        delivery: Delivery,
        verdict: Verdict,
        *,
        delay: float = 0.0,
        charged: bool = False,
        reason: str = "",
        records: Sequence[Record] = (),
        publications: Sequence[Publication] = (),
        parts: Sequence[ChordPart] = (),
        completes: str = "",
        early: bool = False,
    ) -> None:
        self.delivery = delivery
        self.verdict = verdict
        self.early = early
        self.delay = delay
        self.charged = charged
        self.reason = reason
        self.records = records
        self.publications = publications
        self.parts = parts
        self.completes = completes

    @property
    def is_plain(self) -> bool:
        """Whether nothing is to be stored or published with it: all that a broker without `atomic_end` is given."""
        return not (self.records or self.publications or self.parts or self.completes)


class Settled(enum.Enum):
    DONE = "done"
    STALE = "stale"
    """The token is not the current one: nothing was changed, nothing of the end was stored."""
    JOINED = "joined"
    """Only with `parts`, if a chord is complete with one of them (`ChordState.complete`): records and parts were
    stored, no publication was, and the claim stands. Whoever completes a chord settles again, with the body."""
    STANDING = "standing"
    """Only with `parts`, if a terminal record stood already under the id of a part's: such a part is of another run
    than the one that counts. Neither parts nor publications were stored, and the claim stands."""


@runtime_checkable
class Consumer(Protocol):
    """One worker's claim on some queues, and its lease.

    `fetch`, `start` and `settle` are called from one thread at a time; `renew` and `wake` from others.
    """

    def fetch(self, limit: int, max_bytes: int, timeout: float) -> Sequence[Delivery]:
        """Claim up to `limit` due messages of at most `max_bytes` together (the first may be larger).

        Higher priority first, then oldest first; queues take turns, so that no queue starves another. Waits up
        to `timeout` seconds for the first one; `wake` ends the wait. Whatever leases of dead owners have run
        out are taken over here: seen, and charged only with what `start` recorded. Messages at the delivery limit
        are handed out too. The claim is one atomic step on the broker: owner, token and deadline move together
        with the message.
        """
        ...

    def start(self, deliveries: Sequence[Delivery]) -> Sequence[Settled]:
        """Record that these are about to start, so that a start that never ends is counted.

        Called for messages that were `seen` before, and for nothing else. Durable when it returns.
        """
        ...

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """End claims; durable when it returns. One outcome for each, in order."""
        ...

    def renew(self) -> bool:
        """Extend the lease. False: it had run out, and what was claimed may have other owners by now. The
        consumer may go on: what it fetches from then on is under a new lease."""
        ...

    def wake(self) -> None:
        """End a waiting `fetch` at once, or the next one if none is waiting."""
        ...

    def close(self) -> None:
        """Give back, uncharged and at once, every claim that was not settled. Called again it does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A queue in numbers; `oldest` is the age in seconds of the oldest waiting message, where the broker can tell.

    `claimed` counts at least those of this process: a server need not tell of others."""

    name: str
    ready: int
    delayed: int = 0
    claimed: int = 0
    dead: int = 0
    oldest: float | None = None
    paused: bool = False
    consumers: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be run, kept with its reason. `died_at` is in Unix seconds.

    `id` names the letter to `retry_dead` and `drop_dead`: the id of the task where that is readable and not
    taken by another letter. `task` is empty where the headers are unreadable.
    """

    id: str
    task: str
    queue: str
    reason: str
    died_at: float
    starts: int
    message: Message


@runtime_checkable
class Subscription(Protocol):
    """A reader of one topic; it sees what is broadcast after it was made."""

    def read(self, limit: int, timeout: float) -> Sequence[Message]:
        """Up to `limit` messages, waiting up to `timeout` seconds for the first."""
        ...

    def close(self) -> None:
        """From any thread: a waiting `read` returns at once, with nothing."""
        ...


@runtime_checkable
class Broker(Protocol):
    """A broker driver. Its constructor does no I/O."""

    interface: tuple[int, int]
    capabilities: BrokerCapabilities
    settings: tuple[Setting, ...]

    def __init__(self, config: BrokerConfig) -> None: ...

    @property
    def transaction_domain(self) -> str | None:
        """A name that is equal for a broker and a backend that can end a task in one transaction."""
        ...

    def open(self) -> None:
        """Connect and make ready; called again it does nothing. Raises `OperationalError`, or
        `ImproperlyConfigured` for what no retry will mend."""
        ...

    def close(self) -> None:
        """Release everything; consumers and subscriptions are closed too. May be opened again."""
        ...

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        """Make queues exist, with their exchanges and bindings; what exists already is left as it is."""
        ...

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        """Store messages, durably where the broker is; one outcome for each, in order.

        A message whose id is already waiting or claimed in the same queue may be stored once only. Raises
        `OperationalError` when nothing at all was sent.
        """
        ...

    def consume(self, queues: Sequence[str], options: ConsumeOptions) -> Consumer: ...

    def stats(self, queues: Sequence[str] = ()) -> Sequence[QueueStats]:
        """Numbers for these queues, or for all that exist, sorted by name."""
        ...

    def purge(self, queue: str) -> int:
        """Delete what waits in `queue` (delayed ones too, claimed ones not); how many that were."""
        ...

    def peek(self, queue: str, limit: int) -> Sequence[Message]:
        """The messages that would be fetched next, left where they are."""
        ...

    def pause(self, queue: str) -> None:
        """Stop handing out messages of `queue` to anyone; persists where the broker does."""
        ...

    def resume(self, queue: str) -> None: ...

    def dead_letters(self, queue: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Dead letters, newest first."""
        ...

    def retry_dead(self, ids: Iterable[str]) -> int:
        """Put dead letters back into their queues as new messages with no starts counted and the header
        ``kernel_replay`` raised by one; how many were."""
        ...

    def drop_dead(self, ids: Iterable[str]) -> int:
        """Delete dead letters; how many were."""
        ...

    def broadcast(self, topic: str, batch: Sequence[Message]) -> None:
        """Send to everyone who subscribes to `topic` now. Nothing is kept for those who come later.

        Where `keeps_fanouts` is off, what is in front of a slash is a topic that is told, too."""
        ...

    def subscribe(self, topic: str) -> Subscription: ...


@dataclass(frozen=True, slots=True)
class Released:
    """What `Releases.release` put back, in messages; `owners` are consumers that live, for whose sake it did
    nothing."""

    queue: str
    delayed: int = 0
    claimed: int = 0
    owners: int = 0


@runtime_checkable
class Releases(Protocol):
    """A broker that keeps delayed and claimed messages where other systems on the same server do not look, and can
    put them back where they do."""

    def release(self, queue: str) -> Released:
        """Make plain waiting messages of all that is delayed in `queue`, or was claimed by an owner whose lease has
        run out. How often they were started is forgotten. Does nothing while a consumer of the queue lives."""
        ...


@runtime_checkable
class Exchanges(Protocol):
    """A broker with the capability `exchanges`."""

    def declare_exchanges(self, exchanges: Sequence[ExchangeSpec]) -> None:
        """Make exchanges exist, without queues; one that exists already is left as it is."""
        ...


@runtime_checkable
class Bindings(Protocol):
    """A broker without exchanges that remembers the bindings of the queues that were declared, by anyone."""

    def bindings(self, exchange: str) -> Sequence[Bound]: ...
