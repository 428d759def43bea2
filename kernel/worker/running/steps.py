"""The steps of an end that a server takes part in: tried until they work, for as long as the end is ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from kernel import errors
from kernel.interfaces.backend import Record, StoreOutcome
from kernel.message import Publication
from kernel.worker.outage import Outage

if TYPE_CHECKING:
    from kernel.app import Kernel

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0

_T = TypeVar("_T")

Placed = tuple[int, Publication]
"""A publication, and at which place in a batch the end is that it belongs to."""


class GivenUp(Exception):
    """The lease was lost while an end could not be stored, or the worker is to end."""


class Steps:
    """`valid` says whether this worker's lease holds, and `gives_up` whether it is to end and no longer waits for what
    cannot be stored. With `for_ever` a step is tried however long the lease is lost. All raise `GivenUp`."""

    def __init__(self, app: Kernel, *, valid: Callable[[], bool], gives_up: Callable[[], bool]) -> None:
        self._app = app
        self._valid = valid
        self._gives_up = gives_up
        self._outage = Outage()

    def store(self, records: Sequence[Record], for_ever: bool) -> Sequence[StoreOutcome]:
        return self.insist(lambda: self._app.backend.store(records), for_ever)

    def publish(self, publications: Sequence[Placed], for_ever: bool) -> dict[int, BaseException]:
        """The errors of those that can never be published, by their places."""
        refused: dict[int, BaseException] = {}
        left = list(publications)
        if left:
            self.insist(lambda: self._publish(left, refused), for_ever)
        return refused

    def _publish(self, publications: list[Placed], refused: dict[int, BaseException]) -> None:
        """Publish what is in the list, and take out what has an answer. Raises what is worth another try."""
        answers = self._app.publisher.deliver([item for _, item in publications])
        left: list[Placed] = []
        again: BaseException | None = None
        for pair, answer in zip(publications, answers, strict=True):
            if isinstance(answer, errors.OperationalError) and not isinstance(answer, errors.PublishRefused):
                left.append(pair)
                again = answer
            elif answer is not None:
                refused[pair[0]] = answer
        publications[:] = left
        if again is not None:
            raise again

    def insist(self, step: Callable[[], _T], for_ever: bool) -> _T:
        """The answer of `step`, however often it takes.

        Settings that a server refuses (a login that was changed under us, a database that is not there) are no fault
        of the task whose end this is: who mends them finds it here, or in the queue, not among the dead letters.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                found = step()
            except (errors.OperationalError, errors.BackendError, errors.ImproperlyConfigured) as exc:
                if self._gives_up() or not (for_ever or self._valid()):
                    raise GivenUp(str(exc)) from exc
                self._outage.failed("an end cannot be stored", pause, exc)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                if pause > _FIRST_PAUSE:
                    self._outage.ended("ends are stored again")
                return found
