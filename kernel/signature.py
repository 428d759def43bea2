"""`Signature`: a call as data, to be sent later or by somebody else (as a link).

It is a dictionary of JSON values with the keys that Celery's signatures have (`task`, `args`, `kwargs`,
`options`, `subtask_type`, `immutable`), and travels inside messages as such.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from kernel import errors
from kernel.request import current_request

if TYPE_CHECKING:
    from typing import Self

    from kernel import result as result_module
    from kernel.app import Kernel
    from kernel.task import Task

R_co = TypeVar("R_co", covariant=True)

# Options that call-time values do not override: they say which group a signature was frozen into.
_FROZEN_OPTIONS: Final = frozenset({"group_id", "stamped_headers"})


class Signature(dict[str, Any], Generic[R_co]):
    """A call of one task: its name, and the arguments and options that are known so far.

    Arguments given when it is called are put in front of the stored ones; keyword arguments and options given
    then win over stored ones. An immutable signature takes no more arguments.
    """

    _app: Kernel | None = None
    rewrites: bool = False
    """Set on the signature of a retry: its arguments are other than those of the message."""

    def __init__(
        self,
        task: str | Task[Any, Any] | Mapping[str, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        app: Kernel | None = None,
        **more_options: Any,
    ) -> None:
        if isinstance(task, Mapping):
            super().__init__(_checked(task))
        else:
            name = task if isinstance(task, str) else task.name
            if app is None and not isinstance(task, str):
                app = task.app
            super().__init__(
                task=name,
                args=tuple(args or ()),
                kwargs=dict(kwargs or {}),
                options={**(options or {}), **more_options},
                subtask_type=None,
                immutable=immutable,
            )
        self._app = app

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], app: Kernel | None = None) -> Signature[Any]:
        """The signature that `data` describes. Raises `InvalidTaskError` when it describes none."""
        return cls(data, app=app)

    # --- what it says ---------------------------------------------------------------------------------------

    @property
    def task(self) -> str:
        return str(self["task"])

    @property
    def name(self) -> str:
        return str(self["task"])

    @property
    def args(self) -> Sequence[Any]:
        args: Sequence[Any] = self["args"]
        return args

    @property
    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = self["kwargs"]
        return kwargs

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = self["options"]
        return options

    @property
    def immutable(self) -> bool:
        return bool(self["immutable"])

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

    @property
    def type(self) -> Task[..., Any]:
        """The registered task. Raises `NotRegistered`."""
        return self.app.tasks[self.task]

    def AsyncResult(self, task_id: str) -> result_module.AsyncResult[R_co]:  # noqa: N802 - Celery's name
        return self.app.AsyncResult(task_id, task_name=self.task)

    # --- making others of it --------------------------------------------------------------------------------

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """A copy with these arguments in front, and these keyword arguments and options on top."""
        new_args, new_kwargs, new_options = self.merged(args, kwargs, options)
        return self.replace(new_args, dict(new_kwargs), copy.deepcopy(dict(new_options)))

    partial = clone

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy in which the given parts are replaced."""
        data = dict(self)
        data["args"] = tuple(self.args if args is None else args)
        data["kwargs"] = dict(self.kwargs if kwargs is None else kwargs)
        data["options"] = copy.deepcopy(self.options) if options is None else dict(options)
        return type(self)(data, app=self._app)

    def merged(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
        """The arguments and options of a call with these added. Options of None are left out."""
        given = {k: v for k, v in (options or {}).items() if v is not None}
        stored = self.options
        new_options = {**stored, **{k: v for k, v in given.items() if k not in _FROZEN_OPTIONS or k not in stored}}
        if self.immutable:
            return self.args, self.kwargs, new_options
        new_args = (*args, *self.args) if args else self.args
        new_kwargs = {**self.kwargs, **kwargs} if kwargs else self.kwargs
        return new_args, new_kwargs, new_options

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Change options in place."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        self["immutable"] = immutable

    def freeze(self, task_id: str | None = None, **lineage: Any) -> result_module.AsyncResult[R_co]:
        """Give it its task id now, once: frozen again, it keeps the first. Other options are added if unset."""
        from kernel.naming import new_id

        options = self.options
        frozen: str = options.setdefault("task_id", task_id or new_id())
        for name, value in lineage.items():
            if value is not None:
                options.setdefault(name, value)
        return self.app.AsyncResult(frozen, task_name=self.task)

    # --- links ----------------------------------------------------------------------------------------------

    def link(self, callback: Signature[Any]) -> Signature[Any]:
        """Call `callback` with the return value; returns `callback`."""
        return self._append("link", callback)

    def link_error(self, errback: Signature[Any]) -> Signature[Any]:
        """Call `errback` when the task fails; returns `errback`."""
        return self._append("link_error", errback)

    def on_error(self, errback: Signature[Any]) -> Self:
        """The same, and returns this signature."""
        self._append("link_error", errback)
        return self

    def flatten_links(self) -> list[Signature[Any]]:
        """This signature and all that is linked to it, at any depth."""
        found: list[Signature[Any]] = [self]
        for link in as_signatures(self.options.get("link"), self._app):
            found.extend(link.flatten_links())
        return found

    def _append(self, option: str, signature: Signature[Any]) -> Signature[Any]:
        links = self.options.get(option)
        links = [] if links is None else links if isinstance(links, list) else [links]
        if signature not in links:
            links = [*links, signature]
        self.options[option] = links
        return signature

    # --- calling --------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        """Call the task here and now, in this process."""
        new_args, new_kwargs, _ = self.merged(args, kwargs)
        result: R_co = self.type(*new_args, **new_kwargs)
        return result

    def delay(self, *args: Any, **kwargs: Any) -> result_module.AsyncResult[R_co]:
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> result_module.AsyncResult[R_co]:
        """Publish the call; options of `Task.apply_async`."""
        new_args, new_kwargs, new_options = self.merged(args or (), kwargs, options)
        app = self.app
        task = app.tasks.get(self.task)
        if task is None:
            return app.send_task(self.task, new_args, new_kwargs, **new_options)
        return task.apply_async(new_args, new_kwargs, **new_options)

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> result_module.EagerResult[R_co]:
        """Run the call here, as a worker would."""
        new_args, new_kwargs, new_options = self.merged(args or (), kwargs, options)
        return self.type.apply(new_args, new_kwargs, **new_options)

    def __invert__(self) -> R_co:
        """``~signature``: publish and wait for the value."""
        return self.apply_async().get()

    # --- as text and bytes ----------------------------------------------------------------------------------

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        new_args, new_kwargs, _ = self.merged(args, kwargs)
        parts = [repr(arg) for arg in new_args] + [f"{name}={value!r}" for name, value in new_kwargs.items()]
        return f"{self.task}({', '.join(parts)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # The app stays behind: it is no data, and the other side has its own.
        return Signature, (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature[R_co]:
        return Signature(copy.deepcopy(dict(self), memo), app=self._app)


def maybe_signature(data: Any, app: Kernel | None = None) -> Any:
    """A signature from a dictionary that describes one; anything else comes back as it is."""
    if isinstance(data, Signature):
        return data
    if isinstance(data, Mapping) and "task" in data:
        return Signature.from_dict(data, app)
    return data


def as_signatures(links: Any, app: Kernel | None = None) -> list[Signature[Any]]:
    """The value of `link` or `link_error` as a list. Raises TypeError for what is no signature."""
    if links is None:
        return []
    if isinstance(links, Mapping):
        links = [links]
    elif isinstance(links, str | bytes) or not isinstance(links, Iterable):
        raise TypeError(f"a link is a signature (such as task.s()) or a list of them, not {type(links).__name__}")
    found = []
    for item in links:
        signature = maybe_signature(item, app)
        if not isinstance(signature, Signature):
            raise TypeError(f"a link is a signature, such as task.s(); got {item!r:.80}")
        found.append(signature)
    return found


def _checked(data: Mapping[str, Any]) -> dict[str, Any]:
    name = data.get("task")
    if not isinstance(name, str) or not name:
        raise errors.InvalidTaskError(f"a signature needs the name of its task under 'task'; got {name!r:.80}")
    if data.get("subtask_type") is not None:
        raise errors.InvalidTaskError(
            f"the signature of {name!r} is of type {data['subtask_type']!r:.40}; only calls of one task can be linked"
        )
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
        "subtask_type": None,
        "immutable": bool(data.get("immutable", False)),
    }
