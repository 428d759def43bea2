"""`Extensions`: the hook plugins of one app (or of one worker's engine), and the ways in which hooks are called.

Built on one pluggy manager for each app. Plugins are found at the first need and never before; each of their
functions is examined when it is registered. pluggy's own call costs 1.3 to 3 µs even when nobody listens, so
its order of implementations is bound into tuples once, and calls go through those.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol

import pluggy

from kernel import errors, hooks
from kernel.extensions import check as hookcheck
from kernel.extensions.hot import Bound, HotHooks
from kernel.extensions.sources import Selection, Source, Wanted, explicit, select
from kernel.extensions.watch import HookWatch, Running
from kernel.hooks import SPECS

Where = Literal["app", "engine"]

_ADMISSION: Final = ("Run", "Skip", "Delay", "DeadLetter")
# By their names in `outcome`, which is imported when a plugin has answered: a program that only publishes needs it not.
# A decision that nobody understands would be taken for "no opinion": False from an admit hook would run the task.
_ANSWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "kernel_message_invalid": _ADMISSION,
    "kernel_task_admit": _ADMISSION,
    "kernel_task_decide": ("Succeed", "Fail", "RetryLater", "RejectMessage"),
}


class Settings(Protocol):
    """What gives the settings by name: the app's, or a plain mapping."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as a listing shows it. `hooks` is filled once it is loaded."""

    name: str
    origin: str
    distribution: str
    version: str
    target: str
    state: Literal["enabled", "disabled", "fault"]
    detail: str = ""
    hooks: tuple[str, ...] = ()


class Extensions:
    """The plugins of one app. Usable from any thread.

    `settings` gives `plugins`, `disable_plugins`, `required_plugins` and `drivers`; it is read at the first need.
    `plugins` are further ones: objects, classes, or names ``module:attribute``. In the engine (`where`), objects in
    the settings are passed over, since they belong to the process of the app. `builtin` replaces the plugins of
    `kernel.builtin`. With `autoload` off no entry point is loaded unless the setting `plugins` names it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        where: Where = "app",
        plugins: Sequence[object] = (),
        builtin: Mapping[str, object] | None = None,
        autoload: bool = True,
    ) -> None:
        self._settings: Settings = {} if settings is None else settings
        self._where = where
        self._given = tuple(plugins)
        self._builtin = builtin
        self._autoload = autoload
        self._lock = threading.RLock()
        self._ready = False
        self._loading = False
        self._selection = Selection((), (), ())
        self._loaded: dict[str, tuple[Source, tuple[str, ...]]] = {}
        self._failed: dict[str, errors.PluginError] = {}
        self._history: list[tuple[str, Mapping[str, Any]]] = []
        self._manager: pluggy.PluginManager = _Manager(hooks.PROJECT)  # replaced, with its specifications, by `load`
        self._ordered: dict[str, tuple[pluggy.HookImpl, ...]] = dict.fromkeys(SPECS, ())
        self._wrapped: frozenset[str] = frozenset()
        self._hot = HotHooks()
        self._watch = HookWatch()

    # --- the plugins ----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Find and register the plugins, once. Raises `PluginError` with everything that stands against it."""
        if self._ready:
            return
        # Before the lock is taken: reading settings takes theirs, and may come back here to ask for declarations.
        selection = select(self._wanted())
        with self._lock:
            if self._ready or self._loading:
                return
            self._loading = True
            try:
                faults = [*selection.faults, *self._take_all(selection.sources)]
                self._selection = selection
                if faults:
                    raise _together(faults)
                self._rebind()
                self._ready = True
            finally:
                self._loading = False

    def register(self, plugin: object, name: str | None = None) -> str:
        """Add a plugin; its name. What `kernel_configure` and `kernel_task_registered` told others, it is told now.

        Raises `PluginError` when a hook of it cannot be called or its name is taken; then nothing has changed.
        """
        self.load()
        with self._lock:
            source = explicit(plugin, name)
            made = source.make()
            hooked = self._take(source, made)
            try:
                self._replay(source.name, hooked)
            except BaseException:
                self._drop(source.name)
                raise
            self._rebind()
            return source.name

    def unregister(self, name: str) -> None:
        """Remove a plugin. Raises `PluginError` for a name that is not registered."""
        self.load()
        with self._lock:
            if name not in self._loaded:
                here = ", ".join(self._loaded) or "none"
                raise errors.PluginError(f"there is no plugin {name!r}; registered: {here}")
            self._drop(name)
            self._rebind()

    def plugins(self) -> Sequence[PluginInfo]:
        """Every plugin, without importing any that is not loaded; ``fault`` is known once `faults` was asked."""
        selection = self._selection if self._ready or self._failed else select(self._wanted())
        rows = [_info(source, "enabled", hooked=hooked) for source, hooked in self._loaded.values()]
        for source in selection.sources:
            failed = self._failed.get(source.name)
            if failed is not None:
                rows.append(_info(source, "fault", str(failed)))
            elif source.name not in self._loaded:
                rows.append(_info(source, "enabled"))
        rows += [
            _info(source, "disabled", f"disable_plugins has {pattern!r}") for source, pattern in selection.disabled
        ]
        return sorted(rows, key=lambda row: (row.origin != "built in", row.name))

    def faults(self) -> Sequence[errors.PluginError]:
        """What stands against loading the plugins; imports those that are not loaded, and raises nothing."""
        if self._ready:
            return []
        with self._lock:
            # Reading the settings may ask for declarations of plugins, and that must not raise either.
            self._loading = True
            try:
                self._selection = select(self._wanted())
                return [*self._selection.faults, *self._take_all(self._selection.sources)]
            finally:
                self._loading = False

    def get(self, name: str) -> object | None:
        """The plugin object registered under a name."""
        self.load()
        return self._manager.get_plugin(name)

    # --- calling hooks --------------------------------------------------------------------------------------

    @property
    def hook(self) -> pluggy.HookRelay:
        """pluggy's relay, for callers that want its own semantics: slow, and without isolation."""
        self.load()
        return self._manager.hook

    @property
    def hot(self) -> HotHooks:
        """The hot hooks, bound. The object stays the same; its attributes follow registrations."""
        if not self._ready:
            self.load()
        return self._hot

    def bind(self) -> HotHooks:
        """Load the plugins if need be, bind every hook anew, and return the hot ones."""
        self.load()
        with self._lock:
            self._rebind()
        return self._hot

    def has(self, hook: str) -> bool:
        """Whether any plugin implements `hook`."""
        return bool(self._implementations(hook))

    def setup(self, hook: str, **arguments: Any) -> None:
        """Call a set-up hook; the first error stops it, as `PluginError` unless it is an error of ours already.

        Historic hooks are remembered for plugins that come later. `kernel_unconfigure` runs all, in reverse order,
        and raises the errors together at the end.
        """
        found = self._implementations(hook)
        if hook == "kernel_unconfigure":
            self._tear_down(hook, found, arguments)
            return
        if hook in _HISTORIC:
            self._history.append((hook, arguments))
        if hook in self._wrapped:
            self._call_wrapped(hook, found, arguments)
            return
        for implementation in found:
            with self._watch.starting(implementation.plugin_name, hook):
                _call(implementation, arguments)

    def collect(self, hook: str, **arguments: Any) -> list[Any]:
        """The answers of all plugins that have one (None is none), in pluggy's order: the plugin registered last
        comes first. An error stops it, as in `setup`."""
        return [answer for _, answer in self.collect_from(hook, **arguments)]

    def collect_from(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """The same as pairs of plugin name and answer; the name is empty where a wrapper takes part."""
        found = self._implementations(hook)
        if hook in self._wrapped:
            return [("", answer) for answer in self._call_wrapped(hook, found, arguments)]
        answers: list[tuple[str, Any]] = []
        for implementation in found:
            with self._watch.starting(implementation.plugin_name, hook):
                answer = _call(implementation, arguments)
            if answer is not None:
                answers.append((implementation.plugin_name, answer))
        return answers

    def decide(self, hook: str, **arguments: Any) -> Any:
        """The first answer that is not None, or None. An error propagates, with a note that names the plugin."""
        found = self._implementations(hook)
        if not found:
            return None
        if hook in self._wrapped:
            return self._understood(hook, "", self._call_wrapped(hook, found, arguments))
        for implementation in found:
            with self._watch.noted(implementation.plugin_name, hook):
                answer = _call(implementation, arguments)
            if answer is not None:
                return self._understood(hook, implementation.plugin_name, answer)
        return None

    def call_observe(self, hook: str, **arguments: Any) -> None:
        """Call an observing hook that is not hot; errors are isolated as in `observe`."""
        for implementation in self._implementations(hook):
            self._watch.isolated(implementation.plugin_name, hook, partial(_call, implementation, arguments))

    def first(self, hook: str, bound: Bound | None, *arguments: Any) -> Any:
        """`decide` for a hot hook, from what `hot` holds."""
        if bound is None:
            return None
        plugin, answer = self._watch.first(hook, bound, arguments)
        return None if answer is None else self._understood(hook, plugin, answer)

    def observe(self, bound: Bound | None, *arguments: Any) -> None:
        """Call a hot observing hook. An error of one plugin is counted and logged, and the next one is called."""
        if bound is not None:
            self._watch.observe(bound, (arguments,))

    def observe_all(self, bound: Bound | None, calls: Iterable[tuple[Any, ...]]) -> None:
        """`observe` several times, with these arguments."""
        if bound is not None:
            self._watch.observe(bound, calls)

    # --- watching them --------------------------------------------------------------------------------------

    @property
    def running(self) -> Running | None:
        """The hook that has been running longest at this moment: plugin, hook, and since when (`time.monotonic`).

        None when none is. To be asked from another thread.
        """
        return self._watch.running

    @property
    def error_counts(self) -> Mapping[tuple[str, str], int]:
        """How often a plugin failed in an observing hook, by plugin and hook."""
        return self._watch.error_counts

    # --- inside: registration -------------------------------------------------------------------------------

    def _wanted(self) -> Wanted:
        named = list(self._setting("plugins"))
        if self._where == "engine":
            named = [item for item in named if isinstance(item, str)]
        return Wanted(
            named=named,
            disabled=list(self._setting("disable_plugins")),
            required=list(self._setting("required_plugins")),
            choices=dict(self._setting("drivers") or {}),
            given=self._given,
            builtin=_default_plugins() if self._builtin is None else self._builtin,
            essential=_essential_names() if self._builtin is None else frozenset(),
            autoload=self._autoload,
        )

    def _setting(self, name: str) -> Any:
        try:
            return self._settings[name] or ()
        except KeyError:
            return ()

    def _take_all(self, sources: Sequence[Source]) -> list[errors.PluginError]:
        """Register all in a new manager; what went wrong. A failed attempt must not leave half of it behind."""
        self._manager = _new_manager()
        self._loaded.clear()
        self._failed.clear()
        for source in sources:
            try:
                self._take(source, source.make())
            except errors.PluginError as exc:
                self._failed[source.name] = exc
        return list(self._failed.values())

    def _take(self, source: Source, plugin: object) -> tuple[str, ...]:
        hooked = hookcheck.check(plugin, lambda: source.title)
        try:
            self._manager.register(plugin, source.name)
        except (ValueError, pluggy.PluginValidationError) as exc:
            if source.name in self._loaded or self._manager.is_registered(plugin):
                raise errors.PluginError(f"{source.title} is registered already, or its name is taken") from exc
            raise errors.PluginError(f"{source.title} cannot be used: {exc}") from exc
        self._loaded[source.name] = (source, hooked)
        return hooked

    def _drop(self, name: str) -> None:
        self._manager.unregister(name=name)
        self._loaded.pop(name, None)

    def _replay(self, plugin: str, hooked: Sequence[str]) -> None:
        for hook, arguments in tuple(self._history):
            if hook not in hooked:
                continue
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin_name == plugin:
                    with self._watch.starting(plugin, hook):
                        _call(implementation, arguments)

    def _rebind(self) -> None:
        """Take over pluggy's order: it calls the last of its list first."""
        ordered: dict[str, tuple[pluggy.HookImpl, ...]] = {}
        wrapped: set[str] = set()
        for hook in SPECS:
            found = tuple(reversed(getattr(self._manager.hook, hook).get_hookimpls()))
            ordered[hook] = found
            if any(implementation.wrapper or implementation.hookwrapper for implementation in found):
                wrapped.add(hook)
        self._ordered = ordered
        self._wrapped = frozenset(wrapped)
        for hook in HotHooks.__slots__:
            pairs = [(implementation.plugin_name, implementation.function) for implementation in ordered[hook]]
            setattr(self._hot, hook, Bound.of(hook, pairs))

    def _implementations(self, hook: str) -> tuple[pluggy.HookImpl, ...]:
        if not self._ready:
            self.load()
        try:
            return self._ordered[hook]
        except KeyError:
            raise ValueError(f"{hook!r} is no hook of kernel.hooks") from None

    # --- inside: calls --------------------------------------------------------------------------------------

    def _call_wrapped(self, hook: str, found: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]) -> Any:
        """Let pluggy call a hook that has wrappers. Which plugin is at work is not known then."""
        names = ", ".join(implementation.plugin_name for implementation in found)
        caller = getattr(self._manager.hook, hook)
        guard = self._watch.noted if SPECS[hook].kind == "decide" else self._watch.starting
        with guard(names, hook):
            return caller(**arguments)

    def _tear_down(self, hook: str, found: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]) -> None:
        failed: list[errors.PluginError] = []
        for implementation in reversed(found):
            try:
                with self._watch.starting(implementation.plugin_name, hook):
                    _call(implementation, arguments)
            except errors.KernelError as exc:
                failed.append(exc if isinstance(exc, errors.PluginError) else errors.PluginError(str(exc)))
        if failed:
            raise _together(failed)

    def _understood(self, hook: str, plugin: str, answer: Any) -> Any:
        if answer is None:
            return answer
        expected = _answers(hook)
        if not expected or isinstance(answer, expected):
            return answer
        right = ", ".join(kind.__name__ for kind in expected)
        raise errors.PluginError(f"plugin {plugin!r} answered {answer!r} in {hook}; right are {right}, or None")


@functools.cache
def _answers(hook: str) -> tuple[type, ...]:
    """What plugins may answer, besides None; empty where it may be anything."""
    if hook == "kernel_route":
        return (hooks.Route,)
    if hook not in _ANSWERS:
        return ()
    outcome = importlib.import_module("kernel.interfaces.outcome")
    return tuple(getattr(outcome, name) for name in _ANSWERS[hook])


_HISTORIC: Final = frozenset({"kernel_configure", "kernel_task_registered"})


class _Manager(pluggy.PluginManager):
    """Before 1.7, pluggy evaluates the properties of a plugin to see whether they are hooks."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        return hookcheck.options_of(plugin, name)


def _new_manager() -> pluggy.PluginManager:
    manager = _Manager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    return manager


def _call(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    return implementation.function(*[arguments[name] for name in implementation.argnames])


def _together(faults: Sequence[errors.PluginError]) -> errors.PluginError:
    if len(faults) == 1:
        return faults[0]
    error = errors.PluginError(f"{len(faults)} faults with plugins:\n" + "\n".join(f"- {fault}" for fault in faults))
    error.__cause__ = faults[0]
    return error


def _default_plugins() -> Mapping[str, object]:
    from kernel import builtin  # it needs no other room than ours, and is needed by nothing but this

    return builtin.default_plugins()


def _essential_names() -> frozenset[str]:
    from kernel import builtin

    return builtin.ESSENTIAL


def _info(
    source: Source, state: Literal["enabled", "disabled", "fault"], detail: str = "", *, hooked: tuple[str, ...] = ()
) -> PluginInfo:
    from kernel.drivers import entrypoints

    offer = source.offer
    if offer is not None and not offer.distribution:
        offer = entrypoints.owners([offer])[0]
    distribution = offer.distribution if offer is not None else "kernel" if source.origin == "built in" else ""
    version = offer.version if offer is not None else ""
    return PluginInfo(source.name, source.origin, distribution, version, source.target, state, detail, hooked)
