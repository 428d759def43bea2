"""`Annotations`: the setting `task_annotations`, which changes tasks by their names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

from kernel.errors import ImproperlyConfigured
from kernel.options import TASK_OPTIONS, did_you_mean

if TYPE_CHECKING:
    from kernel.task import Task

_ALL: Final = "*"
_AROUND: Final = "@"
_DONE: Final = "_annotated"


class Annotations:
    """What the setting says of tasks: a dictionary ``{name or '*': {attribute: value}}``, an object (or class) with
    ``annotate(task)`` and ``annotate_any()`` that give such attributes or None, a function ``annotate(task)``, the path
    of one of these, or a list of them.

    The first that knows a task counts, and after it the first ``'*'``, whose values win. An attribute ``'@name'`` is
    a decorator of the method `name`. Raises `ImproperlyConfigured` for what is none.
    """

    def __init__(self, setting: Any) -> None:
        items = setting if isinstance(setting, list | tuple) else () if setting is None else (setting,)
        self._setting = setting
        self._sources = [_source(item) for item in items]

    def apply(self, task: Task[..., Any]) -> None:
        """Change the task, once. Raises `ImproperlyConfigured` for what cannot be, and what is asked raises."""
        if task.__dict__.get(_DONE) is self._setting:
            return
        task.__dict__[_DONE] = self._setting
        for attributes in (self._first(lambda source: source.annotate(task)), self._first(_any)):
            for name, value in _attributes(attributes, task.name):
                _set(task, name, value)

    def _first(self, ask: Callable[[_Source], Any]) -> Any:
        return next((found for source in self._sources if (found := ask(source))), None)


class _Source:
    """Something that knows attributes of tasks."""

    def __init__(self, annotate: Callable[[Any], Any] | None, annotate_any: Callable[[], Any] | None) -> None:
        self._annotate = annotate
        self._annotate_any = annotate_any

    def annotate(self, task: Task[..., Any]) -> Any:
        return self._annotate(task) if self._annotate is not None else None

    def annotate_any(self) -> Any:
        return self._annotate_any() if self._annotate_any is not None else None


def _any(source: _Source) -> Any:
    return source.annotate_any()


def _source(item: Any) -> _Source:
    if isinstance(item, str):
        item = _imported(item)
    if isinstance(item, type):
        item = item()
    if isinstance(item, Mapping):
        table = item
        for name, attributes in table.items():
            if not isinstance(name, str) or not isinstance(attributes, Mapping):
                raise ImproperlyConfigured(
                    f"task_annotations has {name!r:.60}: {attributes!r:.60}; the name of a task (or '*') and a "
                    "dictionary of its attributes are needed"
                )
        return _Source(lambda task: table.get(task.name), lambda: table.get(_ALL))
    annotate, annotate_any = getattr(item, "annotate", None), getattr(item, "annotate_any", None)
    if callable(annotate) or callable(annotate_any):
        return _Source(annotate, annotate_any)
    if callable(item):
        return _Source(item, None)
    raise ImproperlyConfigured(
        f"task_annotations has {item!r:.80}; a dictionary, an object with annotate, a function or the path of one is "
        "needed"
    )


def _attributes(found: Any, task: str) -> Iterator[tuple[str, Any]]:
    if not found:
        return
    if not isinstance(found, Mapping) or not all(isinstance(name, str) and name for name in found):
        raise ImproperlyConfigured(
            f"task_annotations answered {found!r:.80} for {task}; a dictionary of attributes is needed"
        )
    yield from found.items()


def _set(task: Task[..., Any], name: str, value: Any) -> None:
    plain = name.removeprefix(_AROUND)
    if not hasattr(task, plain) and plain not in TASK_OPTIONS:
        raise ImproperlyConfigured(
            f"task_annotations changes {plain!r} of {task.name}, which it does not have{did_you_mean(plain, dir(task))}"
        )
    if name.startswith(_AROUND):
        _wrap(task, plain, value)
    elif isinstance(value, FunctionType) and callable(getattr(type(task), name, None)):
        setattr(task, name, MethodType(value, task))
    else:
        setattr(task, name, value)


def _wrap(task: Task[..., Any], name: str, around: Any) -> None:
    """Have `around` make a method out of the one that is there."""
    method = getattr(task, name)
    if not callable(around) or not callable(method):
        raise ImproperlyConfigured(f"task_annotations[{task.name!r}]['@{name}'] is no decorator of a method")
    own = task.__dict__.get(name)
    if own is None or isinstance(own, MethodType):
        # As in a class body: the decorator sees a function whose first argument is the task.
        setattr(task, name, MethodType(around(method.__func__), task))
    else:
        setattr(task, name, around(own))


def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"{path!r} of task_annotations cannot be imported: {exc}") from exc
