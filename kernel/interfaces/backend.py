"""The result backend: one record a task, of which the first terminal state wins."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kernel import states
from kernel.interfaces.setting import Setting

if TYPE_CHECKING:
    from kernel.interfaces.broker_config import BrokerConfig

INTERFACE = (1, 0)


@runtime_checkable
class ResultCodecs(Protocol):
    """What a backend asks of its app where a whole record is one document in the app's own format, as Celery has
    it. Whoever may not be read by the app's settings is not read here either."""

    def encode_result(self, value: Any, serializer: str | None = None) -> tuple[bytes, str, str]:
        """``(data, content_type, content_encoding)``; `serializer` is a name or a content type. Raises
        `EncodeError`."""
        ...

    def decode_result(self, data: bytes, content_type: str, content_encoding: str = "utf-8") -> Any:
        """Raises `ContentDisallowed` before anything is decoded, and `DecodeError`."""
        ...

    def press_result(self, data: bytes) -> tuple[bytes, str] | None:
        """`data` compressed as `result_compression` says, and its content type; None where that is not set, or
        `data` too large to be inflated again. Raises `DriverError`."""
        ...

    def inflate(self, data: bytes, content_type: object) -> bytes:
        """Raises `PayloadTooLarge` and `DecodeError`."""
        ...


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """What a backend is built from. `expires` is `result_expires` in seconds (None: never), `chord_expires` the same
    for what is known of chords, from the part that came last (None: as `expires`), and `failure_expires` for records
    in the state FAILURE (None: as `expires`); `codecs` are those of the app, where there is one. `broker` is what the
    app's broker is built from, and `reply_to` where this process is answered, as its messages say; both for backends
    that send records `to_caller`."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    expires: float | None = 86400.0
    chord_expires: float | None = None
    failure_expires: float | None = None
    timeout: float = 4.0
    app_name: str = "kernel"
    codecs: ResultCodecs | None = None
    broker: BrokerConfig | None = None
    reply_to: str | None = None


@dataclass(frozen=True, slots=True)
class BackendCapabilities:
    crosses_processes: bool = True
    durable: bool = True
    groups: bool = True
    chords: bool = True
    foreign_chords: bool = False
    """It keeps parts as Celery does, and so those of chords that Celery made, whose size it knows itself."""
    failures_expire: bool = False
    """`failure_expires` has an effect."""
    push: bool = True
    """A watcher is woken by the store, and does not poll."""
    every_state: bool = True
    """A watcher sees each state a record goes through, and not just the newest."""
    to_caller: bool = False
    """A record is not kept but sent to the process that called (`Record.reply_to`): it can be loaded and watched
    there alone, which keeps the first end that comes, and `store` says WON of all. It is a `Listening` one, too."""


@dataclass(slots=True, kw_only=True)
class Record:
    """What is known of a task.

    `result` is the serialized value, exception or meta, of `content_type`; the backend never reads it.
    `children` is JSON text of a list of result tuples. `date_done` is in Unix seconds, for terminal states.
    `attempt` is the number of times the task was replayed from the dead letters: a record of a later attempt
    may replace FAILURE or REVOKED of an earlier one, never SUCCESS.
    The fields from `name` on are filled when results are extended; `args` and `kwargs` are serialized.
    """

    id: str
    state: str
    result: bytes = b"null"
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    traceback: str | None = None
    children: str | None = None
    date_done: float | None = None
    group_id: str | None = None
    parent_id: str | None = None
    attempt: int = 0
    reply_to: str | None = None
    name: str | None = None
    args: bytes | None = None
    kwargs: bytes | None = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    stamps: str | None = None
    prepared: Sequence[bytes] = ()
    """What the backend made of it for the broker of its `transaction_domain` (`Preparing`)."""


def replaces(state: str, attempt: int, standing_state: str, standing_attempt: int) -> bool:
    """Whether a record of `state` and `attempt` may take the place of the standing one; the rule of `store`."""
    if standing_state == states.SUCCESS or attempt < standing_attempt:
        return False
    return attempt > standing_attempt or standing_state not in states.READY_STATES


class StoreState(enum.Enum):
    WON = "won"
    STANDING = "standing"
    """A terminal record, or one of a later attempt, stands already and was left as it is."""


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    state: StoreState
    standing: Record | None = None


WON = StoreOutcome(StoreState.WON)


@dataclass(frozen=True, slots=True)
class ChordPart:
    """The terminal record of member `index`, from 0, of a chord of `size` members; what is kept of it is id, state,
    attempt, and the result with its kind. Backends with `foreign_chords` are given some of an unknown size, which is 0,
    and index, which is -1, too. Of one that was `added` meanwhile (`Growing.grow_chord`) the index is `size` or more.
    `again`: a process may have died over bringing it before. What that one had under way is this one's to see to, and
    nobody else's."""

    chord_id: str
    size: int
    index: int
    record: Record
    added: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class ChordState:
    """How far a chord is: `complete` is True for exactly one part, and again for the part of the same member after
    it; `parts` are then the members' records in order. `arrived` may count a part twice that came twice."""

    complete: bool
    arrived: int
    size: int
    parts: Sequence[Record] = ()


def check_part(part: ChordPart) -> None:
    """Raises ValueError for a member that is none of its chord."""
    if (part.index < part.size) if part.added else not 0 <= part.index < part.size:
        raise ValueError(f"member {part.index} of chord {part.chord_id!r} is outside its size of {part.size}")


@runtime_checkable
class Watch(Protocol):
    """Waits for records of some ids. Used from one thread; `add` and `wake` from any."""

    def add(self, ids: Sequence[str]) -> None: ...

    def discard(self, ids: Sequence[str]) -> None: ...

    def wait(self, timeout: float) -> Sequence[Record]:
        """Records that are new or changed since they were last returned, at once if there are any; the ones
        that exist when an id is added count as new. Empty after `timeout` seconds or `wake`."""
        ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Backend(Protocol):
    """A result backend driver. Its constructor does no I/O. Methods may be called from any thread."""

    interface: tuple[int, int]
    capabilities: BackendCapabilities
    settings: tuple[Setting, ...]

    def __init__(self, config: BackendConfig) -> None: ...

    @property
    def transaction_domain(self) -> str | None: ...

    def open(self) -> None: ...

    def close(self) -> None: ...

    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        """Store records, durably where the backend is; one outcome for each, in order. A terminal record is
        never replaced, save by one of a later `attempt`, and SUCCESS by nothing; a record of an earlier attempt
        replaces nothing (`replaces` is the rule). An outcome that is not WON brings the standing record."""
        ...

    def load(self, ids: Sequence[str]) -> Sequence[Record | None]:
        """The record of each id, in order; None where there is none, or none any more."""
        ...

    def watch(self, ids: Sequence[str] = ()) -> Watch: ...

    def forget(self, ids: Sequence[str]) -> None: ...

    def save_group(self, group_id: str, document: str) -> None:
        """Keep the JSON text of a group result."""
        ...

    def load_group(self, group_id: str) -> str | None: ...

    def forget_group(self, group_id: str) -> None: ...

    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[ChordState]:
        """Add parts to chords, durably where the backend is, each atomically; one state for each, in order. A part
        that is there already is left as it is, and a chord that was forgotten takes none."""
        ...

    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        """Whether this copy of the message of a chord's body is the one to run. The first that asks is, whenever it
        asks again, and no other, as long as the chord is known, which begins anew; atomic, and durable where the
        backend is. Of a body that begins with several tasks `number`, from 0, says which: each has its own copies.
        One that is a single task (None) forgets the chord in the same step."""
        ...

    def cleanup(self) -> int:
        """Delete what has expired; how many records that were. Backends whose server does so return 0."""
        ...


@runtime_checkable
class Listening(Protocol):
    """What a backend has besides that sends records `to_caller`."""

    def expect(self, ids: Sequence[str]) -> None:
        """Called with the ids of calls before these leave: returns when their records can come in. Raises
        `OperationalError`."""
        ...


@runtime_checkable
class Growing(Protocol):
    """What a backend with `chords` may have besides."""

    def grow_chord(self, chord_id: str, size: int, index: int) -> None:
        """Let a chord of `size` members have one more, `index`, which is `size` or more and less than 2^31: it is
        complete when that one has come, too, and its part is behind those of lower indices. Durable where the backend
        is, and atomic; again for the same index changes nothing, nor for a chord that was forgotten. Called by a
        member whose own part has yet to come."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """A backend whose records take settings and codecs of its app to be made, of a `transaction_domain` with a broker.
    That broker stores them where there is no app, and is given what was made here."""

    def prepare(self, record: Record) -> Record | None:
        """The record with `prepared`, which counts alone then; None for one that only `store` can store. No I/O."""
        ...

    def prepare_part(self, part: ChordPart) -> ChordPart:
        """The same for a part, whose record has then what is kept of it in `prepared`. Raises ValueError as
        `chord_parts`. For a backend with `chords`."""
        ...

    def prepare_chord(self, chord_id: str) -> str:
        """What is given to that broker in place of the id of a chord that a settlement completes."""
        ...


@runtime_checkable
class Announcing(Protocol):
    """What a backend with `foreign_chords` has besides."""

    def chord_begins(self, chord_id: str, size: int) -> None:
        """Write down the size of a chord before its parts are published, for workers of the other system."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """What a backend may have besides that keeps the states in between: at least the newest hundred of each task."""

    def past(self, ids: Sequence[str]) -> Sequence[Sequence[tuple[float, Record]]]:
        """Of each id the states that are known, the oldest first and the one that stands last, each with the Unix time
        at which it was stored; empty for an id without a record."""
        ...
