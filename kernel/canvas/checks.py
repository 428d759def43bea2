"""What is wrong with the rest of a canvas, found before its beginning is published.

Messages carry what comes after them. A mistake in there would come to light when others have run already, in a worker:
a task that cannot be called with what it will be given, a type that nobody knows, a signature that leads back to
itself, a chord that cannot be joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel.canvas.chains import chain
from kernel.canvas.chord import check_chord, chord, parts_of
from kernel.canvas.groups import as_group, group
from kernel.canvas.maps import xmap
from kernel.cycles import cycle_of
from kernel.errors import ImproperlyConfigured
from kernel.options import FOLLOWING
from kernel.routing.exchange import check_type
from kernel.signature import Signature, maybe_signature

if TYPE_CHECKING:
    from kernel.app import Kernel


_FOLLOWING: Final = sorted(FOLLOWING)


class Check:
    """Checks signatures of one call, or of one batch of calls; what was looked at is not looked at again."""

    def __init__(self, app: Kernel) -> None:
        self._app = app
        self._path: list[Any] = []
        # By identity: that of the values holds while they are kept here.
        self._done: dict[tuple[int, int], Any] = {}

    def following(self, options: Mapping[str, Any]) -> None:
        """All that the options of a call say is to come after it.

        Raises TypeError for a call that does not fit its task (unless the task is unknown here, or says
        ``typing=False``) or what is no signature, `InvalidTaskError` for an unknown type and for a chord over results
        that are ignored, NotImplementedError for one that no backend joins, and ValueError for a cycle and for an
        unknown type of exchanges.
        """
        if FOLLOWING.isdisjoint(options):
            return
        for option in _FOLLOWING:
            value = options.get(option)
            if not value:
                continue
            if isinstance(value, str | bytes) or not isinstance(value, Iterable):
                raise TypeError(f"{option} is {value!r:.80}; a signature (as of task.s()) or a list of them is needed")
            items: Iterable[Any] = [value] if isinstance(value, Mapping) else value
            for item in items:
                # An errback gets an id, or a request, an error and a traceback: it is asked only when it is called.
                self.signature(item, 1, called=option != "link_error")

    def signature(self, item: Any, extra: int = 0, *, called: bool = True) -> None:
        """A signature that will be called with `extra` arguments in front of its own; raises as `following`."""
        if (id(item), extra) in self._done:
            return
        for place, other in enumerate(self._path):
            if item is other:
                raise cycle_of(self._path[place:])
        self._path.append(item)
        try:
            found = maybe_signature(item, self._app)
            if not isinstance(found, Signature):
                raise TypeError(f"a part of a canvas is a signature, such as task.s(); got {item!r:.80}")
            self._parts(as_group(found), extra, called=called)
            self.following(found.options)
        finally:
            self._path.pop()
        self._done[id(item), extra] = item

    def _parts(self, signature: Signature[Any], extra: int, *, called: bool) -> None:
        kind = signature.options.get("exchange_type")
        if kind is not None:
            try:
                check_type(kind, f"the exchange of the call of {signature.task!r}")
            except ImproperlyConfigured as exc:
                raise ValueError(str(exc)) from None
        extra = 0 if signature.immutable else extra
        if not signature.composite:
            if called:
                self._call(signature, extra)
            return
        # Its own arguments go to whatever comes first; those by name are not told from its parts here.
        first = extra + len(signature.args)
        known = called and not _own_names(signature)
        tasks: Sequence[Any] = getattr(signature, "tasks", ())
        if isinstance(signature, chain):
            for step in tasks:
                self.signature(step, first, called=known)
                if not (isinstance(step, group) and not step.tasks):
                    first, known = 1, called
            return
        for member in tasks:
            self.signature(member, first, called=known)
        body = signature.kwargs.get("body")
        # Who has no backend may still publish for workers that have one.
        if isinstance(signature, chord) and signature.body is not None and self._app.backend_url is not None:
            check_chord(self._app, signature.body, parts_of(tasks))
        if isinstance(body, Mapping):
            self.signature(body, 1, called=called)

    def _call(self, signature: Signature[Any], extra: int) -> None:
        if isinstance(signature, xmap):
            signature.check_items()
            return
        task = self._app.tasks.get(signature.task)
        if task is not None:
            task.checked((*[None] * extra, *signature.args), signature.kwargs)


def _own_names(signature: Signature[Any]) -> bool:
    given = {**signature.kwargs, **(signature.kwargs.get("kwargs") or {})}
    return bool(given.keys() - {"tasks", "header", "body", "kwargs"})
