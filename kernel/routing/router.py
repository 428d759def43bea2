"""`Router`: where a call goes by the setting `task_routes`."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kernel.errors import ImproperlyConfigured
from kernel.options import split_call_options

Answer = Mapping[str, Any]
"""Options of a call, with its `queue`, `exchange` or `routing_key`."""

_FORMS: Final = (
    "a dictionary {name: queue or options}, a list of such pairs, a function, the path of one, or a list of these"
)
_NOTHING: Final[Answer] = {}


class Table:
    """Routes by the name of the task: the exact one, then globs (keys with ``*``) and regular expressions in order."""

    def __init__(self, entries: Mapping[Any, Any] | Sequence[Any]) -> None:
        pairs = entries.items() if isinstance(entries, Mapping) else entries
        self._names: dict[str, Answer] = {}
        self._patterns: list[tuple[re.Pattern[str], Answer]] = []
        for key, value in pairs:
            answer = as_answer(value, f"task_routes[{_shown(key)}]", ImproperlyConfigured) or _NOTHING
            if isinstance(key, re.Pattern):
                self._patterns.append((key, answer))
            elif not isinstance(key, str):
                raise ImproperlyConfigured(
                    f"task_routes has a key {key!r:.60}; a name, a pattern or a regular expression is needed"
                )
            elif "*" in key:
                self._patterns.append((re.compile(fnmatch.translate(key)), answer))
            else:
                self._names.setdefault(key, answer)

    def find(self, name: str) -> Answer | None:
        """The options for calls of that task."""
        found = self._names.get(name)
        if found is not None:
            return found
        return next((answer for pattern, answer in self._patterns if pattern.match(name)), None)


class Asked:
    """A router that is asked for each call: a function, or an object with `route_for_task`. Given as a path it is
    imported when it is first asked."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._shown = given if isinstance(given, str) else _shown(given)
        self._call: Callable[..., Any] | None = None

    def find(self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any) -> Answer | None:
        """Raises TypeError for an answer that is none, naming the router, and what the router raises."""
        if self._call is None:
            self._call = self._resolved()
        return as_answer(
            self._call(name, args, kwargs, options, task), f"the router {self._shown} answered for {name}", TypeError
        )

    def _resolved(self) -> Callable[..., Any]:
        found = _imported(self._given) if isinstance(self._given, str) else self._given
        if isinstance(found, type):
            found = found()
        method = getattr(found, "route_for_task", None)
        if callable(method):
            return lambda name, args, kwargs, options, task: method(name, args, kwargs)
        if isinstance(found, Mapping):
            table = Table(found)
            return lambda name, args, kwargs, options, task: table.find(name)
        if not callable(found):
            raise ImproperlyConfigured(
                f"the router {self._shown} is {found!r:.60}, which can be neither called nor asked"
            )
        return _caller(found)


class Router:
    """The routers of a `task_routes`; the first answer counts. Raises `ImproperlyConfigured` for what is none."""

    def __init__(self, routes: Any) -> None:
        self.routers: Sequence[Table | Asked] = tuple(_router(item) for item in _items(routes))
        self.fixed = not any(isinstance(item, Asked) for item in self.routers)
        """Whether the answer for a task is the same for each call of it."""

    def __bool__(self) -> bool:
        return bool(self.routers)

    def find(
        self, name: str, args: Any = (), kwargs: Any = _NOTHING, options: Mapping[str, Any] = _NOTHING, task: Any = None
    ) -> Answer | None:
        """The options for a call, or None where no router knows. Raises what routers raise, and TypeError."""
        for router in self.routers:
            if isinstance(router, Table):
                found = router.find(name)
            else:
                found = router.find(name, args, kwargs, options, task)
            if found is not None:
                return found
        return None


def as_answer(value: Any, what: str, error: type[Exception]) -> Answer | None:
    """The options that a route means: the name of a queue, options, or nothing. Raises `error` naming `what`."""
    if value is None:
        return None
    if isinstance(value, str) and value:
        return {"queue": value}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        try:
            split_call_options(value)
        except TypeError as exc:
            raise error(f"{what}: {exc}") from None
        # An empty one routes nothing, and ends the search all the same.
        return dict(value)
    if isinstance(getattr(value, "name", None), str):
        return {"queue": value}
    raise error(f"{what}: {value!r:.80} is neither the name of a queue nor a dictionary of options")


def _items(routes: Any) -> list[Any]:
    if routes is None:
        return []
    if isinstance(routes, list | tuple):
        # A list of pairs is one table; a list of anything else holds routers.
        return [routes] if routes and all(map(_is_pair, routes)) else list(routes)
    return [routes]


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str | re.Pattern)


def _router(item: Any) -> Table | Asked:
    if isinstance(item, Mapping):
        return Table(item)
    if isinstance(item, list | tuple) and all(map(_is_pair, item)):
        return Table(item)
    if (isinstance(item, str) and item) or callable(item) or callable(getattr(item, "route_for_task", None)):
        return Asked(item)
    raise ImproperlyConfigured(f"task_routes has {item!r:.80}; it takes {_FORMS}")


def _caller(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with as much as it takes of ``name, args, kwargs, options, task=...``."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    kinds = {parameter.kind for parameter in parameters.values()}
    if not parameters or "task" in parameters or inspect.Parameter.VAR_KEYWORD in kinds:
        return lambda name, args, kwargs, options, task: function(name, args, kwargs, options, task=task)
    return lambda name, args, kwargs, options, task: function(name, args, kwargs, options)


def _imported(path: str) -> Any:
    """What ``module:attr`` or ``module.attr`` names. Raises `ImproperlyConfigured`."""
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"the router {path!r} of task_routes cannot be imported: {exc}") from exc
    return found


def _shown(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return f"{getattr(value, '__module__', '')}.{name}"
    return f"{value!r:.60}"
