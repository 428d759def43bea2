"""Whether the functions of a plugin can be called as hooks; asked once, when the plugin is registered.

pluggy accepts a coroutine function and never awaits it, a misspelt name and never calls it, a parameter with a default
and never fills it. What would stay silent there is an error here, with file and line.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kernel import errors, hooks
from kernel.hooks import SPECS

_MARK: Final = f"{hooks.PROJECT}_impl"
_SPEC_MARK: Final = f"{hooks.PROJECT}_spec"
_PREFIX: Final = f"{hooks.PROJECT}_"
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Implementation:
    """A function that a plugin marked with `hookimpl`, bound to it, and the hook that it is for."""

    hook: str
    function: Callable[..., Any]
    options: Mapping[str, Any]

    @property
    def is_wrapper(self) -> bool:
        return bool(self.options.get("wrapper") or self.options.get("hookwrapper"))

    @property
    def place(self) -> str:
        """``file:line`` of its definition."""
        return _place(self.function)


def check(plugin: object, title: Callable[[], str]) -> tuple[str, ...]:
    """The hooks that `plugin` implements, sorted.

    Raises `PluginError` with every fault found; `title` names the plugin and its distribution there (it is asked
    then alone, since finding the distribution takes some milliseconds).
    """
    faults: list[str] = []
    names: set[str] = set()
    for found in implementations(plugin):
        if found.hook not in SPECS:
            if not found.options.get("optionalhook"):
                faults.append(f"{found.hook} ({found.place}): there is no such hook{_near(found.hook, SPECS)}")
            continue
        names.add(found.hook)
        fault = _fault(found)
        if fault:
            faults.append(f"{found.hook} ({found.place}): {fault}")
    faults.extend(
        f"{name} ({_place(function)}): it bears the name of a hook and is not marked, so it would never be called; "
        "put @hookimpl of kernel.hooks in front of it"
        for name, function in _unmarked(plugin)
    )
    if faults:
        raise errors.PluginError(f"{title()} cannot be used: " + "; ".join(faults))
    return tuple(sorted(names))


def implementations(plugin: object) -> Iterator[Implementation]:
    """The marked functions of a plugin. Properties and other descriptors are not evaluated."""
    for name in dir(plugin):
        options = options_of(plugin, name)
        if options is not None:
            yield Implementation(options.get("specname") or name, getattr(plugin, name), options)


def options_of(plugin: object, name: str) -> dict[str, Any] | None:
    """What `hookimpl` noted on an attribute; None for everything else."""
    options = getattr(_function(plugin, name), _MARK, None)
    return options if isinstance(options, dict) else None


def spec_arguments(hook: str) -> tuple[str, ...]:
    """The names of the arguments that a hook is called with, in order."""
    return tuple(inspect.signature(getattr(hooks, hook)).parameters)


# --- looking at one function ----------------------------------------------------------------------------------


def _fault(found: Implementation) -> str:
    """Why it cannot be called, and what would be right; empty when it can."""
    spec = SPECS[found.hook]
    function = found.function
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "it is a coroutine function, which nobody would await; hooks are plain functions: write def"
    if found.is_wrapper and (spec.hot or spec.kind == "observe"):
        why = "is called for every message" if spec.hot else "only watches, each plugin by itself"
        return f"it is a wrapper, and this hook {why}; write a plain function that takes {_call(found.hook)}"
    if inspect.isgeneratorfunction(function) and not found.is_wrapper:
        return "it is a generator function, whose body would never run; remove the yield"
    return _parameter_fault(found, hot=spec.hot)


def _parameter_fault(found: Implementation, *, hot: bool) -> str:
    given = list(inspect.signature(found.function).parameters.values())
    known = spec_arguments(found.hook)
    for parameter in given:
        if parameter.kind not in _POSITIONAL:
            return (
                f"its parameter {str(parameter)!r} would never be filled, since arguments are matched by their names; "
                f"right is {_call(found.hook)}"
            )
        if parameter.name not in known:
            near = _near(parameter.name, known)
            return f"the hook has no argument {parameter.name!r}{near}; right is {_call(found.hook)}"
        if parameter.default is not inspect.Parameter.empty:
            return f"its parameter {parameter.name!r} has a default, and is always given; right is {_call(found.hook)}"
    names = tuple(parameter.name for parameter in given)
    if hot and names != known:
        return (
            "this hook is called for every message, so it must take all arguments in their order; "
            f"right is {_call(found.hook)}"
        )
    return ""


def _call(hook: str) -> str:
    return f"{hook}({', '.join(spec_arguments(hook))})"


def _unmarked(plugin: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in dir(plugin):
        if name.startswith(_PREFIX) and name in SPECS:
            function = _function(plugin, name)
            # A module may have imported the specifications themselves.
            if function is not None and not hasattr(function, _MARK) and not hasattr(function, _SPEC_MARK):
                yield name, function


def _function(plugin: object, name: str) -> Callable[..., Any] | None:
    """The attribute as a bound function, when it is one."""
    static = inspect.getattr_static(plugin, name, None)
    if isinstance(static, staticmethod | classmethod) or inspect.isroutine(static):
        value = getattr(plugin, name)
        return value if inspect.isfunction(value) or inspect.ismethod(value) else None
    return None


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else "of unknown place"


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
