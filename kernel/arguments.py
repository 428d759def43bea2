"""Do these arguments fit that function? Asked before a call is published."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Arguments:
    """The parameters of a task's body.

    `check` costs about a microsecond; only a call that does not fit is looked at with `inspect`.
    """

    __slots__ = ("_least", "_most", "_named", "_open", "_required", "_required_named", "name", "signature")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        try:
            self.signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):
            # A callable of C that says nothing of its parameters: anything fits until it is called.
            self.signature = None
            return
        parameters = list(self.signature.parameters.values())
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        only_named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self._required = [p.name for p in positional if p.default is p.empty]
        self._least = len(self._required)
        self._most = len(positional)
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            self._most = 1 << 30
        self._required_named = [p.name for p in only_named if p.default is p.empty]
        self._open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        # Parameter → how many positional arguments leave it free to be given by name.
        self._named: dict[str, int] = {
            p.name: place for place, p in enumerate(positional) if p.kind is not p.POSITIONAL_ONLY
        }
        self._named.update((p.name, 1 << 30) for p in only_named)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises TypeError naming the task and the parameter."""
        if self.signature is None:
            return
        count = len(args)
        if not kwargs:
            if self._least <= count <= self._most and not self._required_named:
                return
        elif count <= self._most and self._fits(count, kwargs):
            return
        self._explain(args, kwargs)

    def rebind(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, old: tuple[Sequence[Any], Mapping[str, Any]]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """New arguments of which one part may be missing: that one is taken from `old`, without what the given
        part says already, so that no parameter is given twice."""
        old_args, old_kwargs = old
        if args is not None and kwargs is not None:
            return args, kwargs
        if args is not None:
            taken = {name for name, place in self._places().items() if place < len(args)}
            return args, {name: value for name, value in old_kwargs.items() if name not in taken}
        if kwargs is None:
            return old_args, old_kwargs
        places = self._places()
        named = sorted(places[name] for name in kwargs if places.get(name, 1 << 30) < len(old_args))
        if not named:
            return old_args, kwargs
        # From the first parameter that is given by name now, the inherited ones must be given by name, too.
        first = named[0]
        by_place = {place: name for name, place in places.items()}
        moved = {by_place[place]: old_args[place] for place in range(first, len(old_args)) if place in by_place}
        return old_args[:first], {**moved, **kwargs}

    def _places(self) -> dict[str, int]:
        return self._named if self.signature is not None else {}

    def _fits(self, count: int, kwargs: Mapping[str, Any]) -> bool:
        named = self._named
        for name in kwargs:
            place = named.get(name)
            if place is None:
                if not self._open or name.__class__ is not str:
                    return False
            elif place < count:
                return False
        return all(name in kwargs and name in named for name in self._required[count:]) and all(
            name in kwargs for name in self._required_named
        )

    def _explain(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        assert self.signature is not None
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(
                f"task {self.name}{_shown(self.signature)} cannot be called so: {exc}. "
                "Nothing was published; typing=False on the task skips this check"
            ) from None


def _shown(signature: inspect.Signature) -> str:
    """Parameters and defaults without annotations, which make a signature long."""
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    text = str(inspect.Signature(plain))
    return text if len(text) <= 200 else "(...)"
