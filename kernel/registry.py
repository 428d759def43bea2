"""`TaskRegistry`: the tasks of an app by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from kernel import errors

if TYPE_CHECKING:
    from kernel.task import Task


class TaskRegistry(dict[str, "Task[..., Any]"]):
    """A dictionary whose missing names are told with the nearest ones."""

    def __init__(self, app_name: str | None) -> None:
        super().__init__()
        self._app_name = app_name

    def __missing__(self, name: str) -> NoReturn:
        import difflib  # only errors need it

        near = difflib.get_close_matches(str(name), list(self), n=3, cutoff=0.5)
        if near:
            advice = f"did you mean {' or '.join(map(repr, near))}?"
        elif self:
            advice = f"it has {len(self)} tasks; is the module that defines this one imported (`include`)?"
        else:
            advice = "it has no tasks at all; is the module that defines them imported (`include`)?"
        raise errors.NotRegistered(f"no task {name!r} is registered in the app {self._app_name!r}: {advice}")

    def __repr__(self) -> str:
        return f"<TaskRegistry of {self._app_name!r}: {', '.join(sorted(self))}>"
