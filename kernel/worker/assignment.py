"""What the engine hands to an executor, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kernel.interfaces.backend import ChordPart, Record
from kernel.interfaces.broker import Verdict
from kernel.message import Message, Publication


@dataclass(frozen=True, slots=True)
class Obituary:
    """The end of a task that never ran or whose process died: the executor ends it without running it.

    `error` is the name of a class in `kernel.errors` and `text` its argument. `verdict` is what becomes of the
    message: ACK, or DEAD with `text` as the reason; None is what the task's options (`acks_on_failure`,
    `acks_on_timeout`) say of such an end.
    """

    state: str
    error: str
    text: str
    verdict: Verdict | None = None


class Lent(NamedTuple):
    """With it, a task may be settled where it runs, by who then goes on with what follows (`Lender.lend`) under the
    numbers from `following` to `last`."""

    key: str
    following: int
    last: int


class Assignment:
    """One task for an executor. `seq` is the engine's number for it, unique in a worker's life."""

    __slots__ = (
        "early_ack",
        "joined",
        "lent",
        "lost",
        "message",
        "obituary",
        "queue",
        "seen",
        "seq",
        "starts",
        "token",
        "valid",
    )

    def __init__(
        self,
        seq: int,
        message: Message,
        queue: str,
        token: str,
        *,
        starts: int = 0,
        seen: bool = False,
        early_ack: bool = False,
        obituary: Obituary | None = None,
        joined: bool = False,
        lent: Lent | None = None,
        valid: Callable[[], bool] | None = None,
    ) -> None:
        self.seq = seq
        self.message = message
        self.queue = queue
        self.token = token
        self.starts = starts
        self.seen = seen
        self.early_ack = early_ack
        self.obituary = obituary
        self.joined = joined
        """It has ended, and its settlement said `JOINED` or `STANDING`: nothing is to be run, and what follows is to be
        worked out."""
        self.lent = lent
        self.valid: Callable[[], bool] = valid or _always
        """Whether this worker's lease holds now."""
        self.lost = False
        """It ran out since this was claimed."""

    def holds(self) -> bool:
        """Whether this worker still owns the message. A lease that is held again covers only what was claimed since."""
        return not self.lost and self.valid()


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Followed:
    """What else is to be stored and published, in that order. `chord` is the id of a chord that is over with it and
    ours to forget. `apart` is to be called if it is not settled with the end that it follows."""

    records: Sequence[Record] = ()
    publications: Sequence[Publication] = ()
    chord: str = ""
    apart: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """The part that a task brings to its chord. With the parts of all, `complete` says what is to be done about it; and
    `refuse` what if the body's publication cannot be stored, ever. Neither raises. With `here` it is the child that
    brings the part, whoever brings others, because what follows is to be known."""

    part: ChordPart
    complete: Callable[[Sequence[Record]], Followed]
    refuse: Callable[[BaseException], Followed]
    here: bool = False


@dataclass(frozen=True, slots=True)
class Break:
    """A chord that will not complete. Whoever's `guard` is stored, or stands already and is the same task's, does what
    `follow` says; which never raises."""

    guard: Record
    follow: Callable[[], Followed]


class Ending:
    """How an assignment ended: the records to store, what it means for chords, the messages to publish and the verdict,
    in that order.

    With an empty `state` nothing is observed (a message handed back unrun). `parts` and `completes` are for the
    settlement, as `Settlement` has them.
    """

    __slots__ = (
        "breaks",
        "charged",
        "completes",
        "delay",
        "join",
        "observe",
        "parts",
        "publications",
        "reason",
        "records",
        "runtime",
        "seq",
        "state",
        "task",
        "unsure",
        "verdict",
    )

    def __init__(
        self,
        seq: int,
        verdict: Verdict,
        *,
        state: str = "",
        delay: float = 0.0,
        charged: bool = False,
        reason: str = "",
        records: Sequence[Record] = (),
        publications: Sequence[Publication] = (),
        runtime: float = 0.0,
        task: str = "",
        join: Join | None = None,
        breaks: Sequence[Break] = (),
        parts: Sequence[ChordPart] = (),
        completes: str = "",
    ) -> None:
        self.seq = seq
        self.verdict = verdict
        self.state = state
        self.delay = delay
        self.charged = charged
        self.reason = reason
        self.records = records
        self.publications = publications
        self.runtime = runtime
        self.task = task
        self.join = join
        self.breaks = breaks
        self.parts = parts
        self.completes = completes
        self.unsure = False
        """Its settlement was tried where the task ran, and may have been done."""
        self.observe: Callable[[], None] | None = None
        """What plugins are told by. It never raises."""

    def observed(self) -> None:
        """Tell plugins of it, once: when it is on its way, or when there is time before that."""
        observe, self.observe = self.observe, None
        if observe is not None:
            observe()

    @property
    def for_chords(self) -> bool:
        """Whether it means anything for chords."""
        return self.join is not None or bool(self.breaks)

    @property
    def has_payload(self) -> bool:
        """Whether anything is to be settled with it but the verdict."""
        return bool(self.records or self.publications or self.parts or self.completes)

    def carried_out(self) -> Ending:
        """What is left of it when everything but the verdict is done."""
        return Ending(
            self.seq,
            self.verdict,
            state=self.state,
            delay=self.delay,
            charged=self.charged,
            reason=self.reason,
            runtime=self.runtime,
            task=self.task,
        )

    def followed_by(self, found: Sequence[Followed]) -> Ending:
        """What is left of it when its records are stored, with all that follows."""
        left = self.carried_out()
        left.records = [record for followed in found for record in followed.records]
        left.publications = [*self.publications, *(item for followed in found for item in followed.publications)]
        left.completes = next((followed.chord for followed in found if followed.chord), "")
        return left


class Step(NamedTuple):
    """An end that was carried out where the task ran, and the message that runs there next under its claim."""

    ending: Ending
    following: Message | None


def are_plain(endings: Sequence[Ending], *, with_payload: bool) -> bool:
    """Whether these are the usual ones: of tasks of one name, in one state, and with nothing but an ACK. With
    `with_payload` their records, parts and publications are still to be carried out, and so make a difference."""
    first = endings[0]
    return all(
        ending.verdict is Verdict.ACK
        and ending.state == first.state
        and ending.task == first.task
        and not (ending.reason or ending.delay or ending.charged or ending.unsure)
        and not (with_payload and ending.has_payload)
        for ending in endings
    )


class Sink(Protocol):
    """Where an executor delivers; any thread may call it."""

    def started(self, seq: int) -> None:
        """User code of `seq` is about to run: from here on a death is charged to it."""
        ...

    def progress(self, records: Sequence[Record]) -> None:
        """Store intermediate states (STARTED, custom) now; durable when it returns."""
        ...

    def ended(self, ending: Ending) -> None:
        """The task is over. Records, publications and verdict are carried out in that order, in batches."""
        ...

    def flush(self) -> None:
        """Carry out what waits for company, and wait for it: somebody is about to look for what it stores."""
        ...
