"""`CallData`: what a signature says, as the dictionary that it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel import errors
from kernel.request import current_request

if TYPE_CHECKING:
    from typing import Self

    from kernel.app import Kernel
    from kernel.task import Task

# Options that call-time values do not override: they say which group a signature was frozen into, and its stamps.
_FROZEN_OPTIONS: Final = frozenset({"group_id", "stamped_headers"})


class CallData(dict[str, Any]):
    """A call as data: its parts, the app it belongs to, copies of it, and others that are made of it. `Signature` is
    what can be done with it."""

    _app: Kernel | None = None

    def __init__(
        self,
        task: str | Task[Any, Any] | Mapping[str, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        type: Task[Any, Any] | None = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Kernel | None = None,
        **more_options: Any,
    ) -> None:
        """`type` is the task where its name alone is given; `subtask_type` the name of a class of one's own."""
        if isinstance(task, Mapping):
            if task.get("subtask_type") is not None:
                raise errors.InvalidTaskError(
                    f"a {task['subtask_type']!r:.40} is more than one call: Signature.from_dict reads it"
                )
            super().__init__(_checked(task))
        else:
            name = task if isinstance(task, str) else task.name
            known = type if isinstance(task, str) else task
            if app is None and known is not None:
                app = known.app
            super().__init__(
                task=name,
                args=tuple(args or ()),
                kwargs=dict(kwargs or {}),
                options={**(options or {}), **more_options},
                subtask_type=subtask_type,
                immutable=immutable,
            )
        self._app = app

    @classmethod
    def of_data(cls, data: Mapping[str, Any], app: Kernel | None = None) -> Self:
        """One of exactly this class. Raises `InvalidTaskError`."""
        made = dict.__new__(cls)
        dict.__init__(made, _checked(data))
        made._app = app
        made._read()
        return made

    def _read(self) -> None:
        """What is to be done when the dictionary is there."""

    # --- what it says ---------------------------------------------------------------------------------------

    @property
    def task(self) -> str:
        return str(self["task"])

    @task.setter
    def task(self, name: str) -> None:
        self["task"] = name

    @property
    def name(self) -> str:
        return str(self["task"])

    @property
    def args(self) -> Sequence[Any]:
        args: Sequence[Any] = self["args"]
        return args

    @args.setter
    def args(self, value: Sequence[Any]) -> None:
        self["args"] = tuple(value)

    @property
    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = self["kwargs"]
        return kwargs

    @kwargs.setter
    def kwargs(self, value: Mapping[str, Any]) -> None:
        self["kwargs"] = dict(value)

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = self["options"]
        return options

    @options.setter
    def options(self, value: Mapping[str, Any]) -> None:
        self["options"] = dict(value)

    @property
    def immutable(self) -> bool:
        return bool(self["immutable"])

    @immutable.setter
    def immutable(self, value: bool) -> None:
        self.set_immutable(value)

    @property
    def subtask_type(self) -> str | None:
        """The name of its class in dictionaries; None for a call of one task."""
        kind: str | None = self["subtask_type"]
        return kind

    @subtask_type.setter
    def subtask_type(self, kind: str | None) -> None:
        self["subtask_type"] = kind

    @property
    def id(self) -> str | None:
        """The id it was frozen with."""
        return self.options.get("task_id")

    @property
    def parent_id(self) -> str | None:
        return self.options.get("parent_id")

    @property
    def root_id(self) -> str | None:
        return self.options.get("root_id")

    @property
    def app(self) -> Kernel:
        """The app it was made by, or the app of the running task. Raises `ImproperlyConfigured` elsewhere."""
        if self._app is not None:
            return self._app
        request = current_request.get()
        if request is None or request.app is None:
            raise errors.ImproperlyConfigured(
                f"the signature of {self.task!r} belongs to no app, and no task is running here that would say which: "
                "make it with app.signature(...) or task.s(...)"
            )
        return request.app

    def known_app(self) -> Kernel | None:
        """The app it was made by, as far as it or a part of it knows."""
        return self._app

    # --- making others of it --------------------------------------------------------------------------------

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """A copy with these arguments in front, and these keyword arguments and options on top. An option of None takes
        back what the signature says of it."""
        new_args, new_kwargs, new_options = self.merged(args, kwargs, options)
        own = copy.deepcopy(dict(new_options)) if new_options else {}
        if None in options.values():
            own.update((name, None) for name, value in options.items() if value is None and name not in self._fixed())
        return self.replace(new_args, new_kwargs, own)

    partial = clone

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy in which the given parts are replaced."""
        made = dict.__new__(type(self))
        dict.__init__(made, self)
        made["args"] = tuple(self.args if args is None else args)
        made["kwargs"] = dict(self.kwargs if kwargs is None else kwargs)
        made["options"] = copy.deepcopy(self.options) if options is None else dict(options)
        made._app = self._app
        made._read()
        return made

    def merged(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
        """The arguments and options of a call with these added. Options of None are left out."""
        new_options = {**self.options}
        if options:
            fixed = self._fixed()
            more = {k: v for k, v in options.items() if v is not None and not (k in fixed and k in new_options)}
            new_options.update(more)
        if self.immutable:
            return self.args, self.kwargs, new_options
        new_args = (*args, *self.args) if args else self.args
        new_kwargs = {**self.kwargs, **kwargs} if kwargs else self.kwargs
        return new_args, new_kwargs, new_options

    def _fixed(self) -> frozenset[str]:
        """The options that are not overridden where they are there."""
        stamps = self.options.get("stamped_headers")
        return _FROZEN_OPTIONS.union(stamps) if stamps else _FROZEN_OPTIONS

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Change options in place."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        self["immutable"] = immutable

    # --- as text and bytes ----------------------------------------------------------------------------------

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        new_args, new_kwargs, _ = self.merged(args, kwargs)
        parts = [repr(arg) for arg in new_args] + [f"{name}={value!r}" for name, value in new_kwargs.items()]
        return f"{self.task}({', '.join(parts)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __copy__(self) -> Self:
        return self.of_data(self, self._app)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.of_data(copy.deepcopy(dict(self), memo), self._app)


def _checked(data: Mapping[str, Any]) -> dict[str, Any]:
    name = data.get("task")
    if not isinstance(name, str) or not name:
        raise errors.InvalidTaskError(f"a signature needs the name of its task under 'task'; got {name!r:.80}")
    args, kwargs, options = data.get("args") or (), data.get("kwargs") or {}, data.get("options") or {}
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping) or not isinstance(options, Mapping):
        raise errors.InvalidTaskError(
            f"the signature of {name!r} needs a list 'args' and dictionaries 'kwargs' and 'options'"
        )
    return {
        **data,
        "args": tuple(args),
        "kwargs": dict(kwargs),
        "options": dict(options),
        "subtask_type": data.get("subtask_type"),
        "immutable": bool(data.get("immutable", False)),
    }
