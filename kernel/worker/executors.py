"""What the engine asks of the place where tasks run, be it child processes or this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kernel.interfaces.backend import Record
from kernel.worker.assignment import Ending, Step
from kernel.worker.claims.item import Item
from kernel.worker.slots import Holding


@dataclass(slots=True)
class Death:
    """A child has ended. `held` is what its slots said, `living` the numbers that other children hold, `recalled`
    those that nobody had taken; `killed` is the number of the task it was killed for, if it was."""

    number: int
    pid: int
    held: Sequence[Holding] = ()
    living: frozenset[int] = field(default_factory=frozenset)
    recalled: frozenset[int] = field(default_factory=frozenset)
    killed: int | None = None
    status: int | None = None


class Listener(Protocol):
    """What executors tell the engine, on its loop thread."""

    def on_ended(self, ending: Ending) -> None: ...

    def on_carried_out(self, steps: Sequence[Step]) -> None:
        """The ends of a task, and of those that followed it one by one under its claim, were carried out where they
        ran: the claim is settled, or that of what runs there next."""
        ...

    def on_done(self, task: str, ends: Sequence[tuple[int, float]], records: Sequence[Record] = ()) -> None:
        """Ends of tasks of one name with nothing but an ACK, and where there are `records` one of them each: the number
        and the runtime of each."""
        ...

    def on_dropped(self, seq: int, epoch: int) -> None:
        """A child did not start a task, since the engine had taken it back."""
        ...

    def on_death(self, death: Death) -> None: ...

    def on_report(self, topic: str, data: Mapping[str, Any]) -> None: ...

    def select(self, readable: Any, call: Callable[[], None]) -> None:
        """Have `call` called on the loop when `readable` is."""
        ...

    def unselect(self, readable: Any) -> None: ...

    def on_failed(self, text: str) -> None:
        """No task can run here any more."""
        ...


class Executors(Protocol):
    """The children, or the pool in this process. All methods are called on the loop thread unless they say
    otherwise."""

    slots: int
    """How many tasks run at once, over all processes."""
    patience: float
    """By how much to stretch the time for which work is handed over ahead: hand-overs between threads that share a
    GIL cost more than those between processes."""

    goes_on: bool
    """Whether whoever runs a task here may settle it by himself and go on with what follows."""

    def open(self, listener: Listener) -> None: ...

    def let_go_on(self, value: bool) -> None:
        """Whether that is wanted now. Not before `open`."""
        ...

    def selectables(self) -> Sequence[tuple[Any, Callable[[], None]]]:
        """What to select on, and what to call when it is readable."""
        ...

    def send(self, items: Sequence[Item]) -> bool:
        """Hand tasks out together; False when there is no room now."""
        ...

    def recall(self) -> Sequence[int]:
        """Take back what nobody has taken yet: the numbers."""
        ...

    def holdings(self) -> Sequence[Holding]:
        """What runs or was announced. Any thread."""
        ...

    def oldest(self) -> float | None:
        """When (monotonic) the task that has run longest began; None when none runs. Any thread."""
        ...

    def mark(self, holding: Holding, mark: int) -> None:
        """Write a mark into a slot that still holds the number, and make its process look. Any thread."""
        ...

    def kill(self, holding: Holding, grace: float) -> bool:
        """End the process that runs this task, and no other task's; call again until it returns True.
        Any thread."""
        ...

    def release(self, holding: Holding) -> None:
        """Undo what a `kill` that returned False has begun. Any thread."""
        ...

    def end_child(self, number: int) -> None:
        """End a child that does not move. Any thread."""
        ...

    def set_lease(self, until: float) -> None:
        """Until when (monotonic) the worker's lease certainly holds. Any thread."""
        ...

    def give_up_at(self, moment: float) -> None:
        """From then on (monotonic) an end that cannot be stored is not tried again: the worker is to end."""
        ...

    def tick(self) -> None:
        """Whatever is to be done from time to time: replace children, try again."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a task could run."""
        ...

    def drain(self) -> None:
        """No more will be sent: end when what runs has ended."""
        ...

    @property
    def finished(self) -> bool: ...

    def terminate(self) -> None:
        """End at once, whatever runs."""
        ...

    def close(self) -> None: ...

    def figures(self) -> Mapping[str, Any]:
        """For status and heartbeat: processes and what they are."""
        ...
