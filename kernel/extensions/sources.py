"""Which hook plugins an app has: found, named or given; and which of them are switched off or asked for.

Everything here is decided from names, before a plugin is imported.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Literal

from kernel import drivers, errors
from kernel.drivers import entrypoints
from kernel.drivers.entrypoints import Offer

GROUP: Final = "kernel.plugins"
Origin = Literal["built in", "entry point", "setting", "given"]

_REQUIREMENT: Final = re.compile(r"\s*([\w.-]+)\s*(.*)")
_CLAUSE: Final = re.compile(r"\s*(>=|<=|==|!=|~=|>|<)\s*([\w.*+!-]+)\s*")


@dataclass(frozen=True, slots=True)
class Source:
    """A plugin that is to be loaded. It comes from `offer` (an entry point), `path` (a name in the settings) or is
    `item`, an object that somebody made."""

    name: str
    origin: Origin
    offer: Offer | None = None
    path: str = ""
    item: object = None

    @property
    def title(self) -> str:
        """The plugin as an error names it."""
        if self.offer is not None:
            return f"plugin {self.name!r} of {_owned(self.offer).source}"
        return {
            "built in": f"built-in plugin {self.name!r}",
            "setting": f"plugin {self.name!r} of the setting plugins",
        }.get(self.origin, f"plugin {self.name!r}")

    @property
    def target(self) -> str:
        return self.offer.target if self.offer is not None else self.path or _type_name(self.item)

    def make(self) -> object:
        """Import it, and make an instance of this app's own where it is a class or a factory.

        Raises `PluginError` with the cause chained.
        """
        try:
            found = self.item if self.item is not None else self._load()
            return found() if inspect.isclass(found) or inspect.isfunction(found) else found
        except (Exception, SystemExit) as exc:
            raise errors.PluginError(
                f"{self.title} cannot be loaded from {self.target}: {type(exc).__name__}: {exc}. Mend or remove it, "
                f"or go on without it: disable_plugins = [{self.name!r}]"
            ) from exc

    def _load(self) -> object:
        if self.offer is not None:
            return self.offer.load()
        module, _, attribute = self.path.partition(":")
        found: object = importlib.import_module(module)
        for part in attribute.split(".") if attribute else ():
            found = getattr(found, part)
        return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings and the caller ask for. `given` are objects, or names of the form ``module:attribute``."""

    named: Sequence[str | object] = ()
    disabled: Sequence[str] = ()
    required: Sequence[str] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    given: Sequence[object] = ()
    builtin: Mapping[str, object] = field(default_factory=dict)
    essential: frozenset[str] = frozenset()
    autoload: bool = True


@dataclass(frozen=True, slots=True)
class Selection:
    """What is loaded, in order, what is switched off (with the pattern that did it), and what stands against it."""

    sources: Sequence[Source]
    disabled: Sequence[tuple[Source, str]]
    faults: Sequence[errors.PluginError]


def select(wanted: Wanted) -> Selection:
    """Decide which plugins are loaded: built-in ones first, then those found, named and given."""
    chosen: list[Source] = []
    disabled: list[tuple[Source, str]] = []
    faults: list[errors.PluginError] = []
    for source in _candidates(wanted):
        pattern = _blocking(source, wanted.disabled)
        if pattern is None:
            chosen.append(source)
        elif source.origin == "built in" and source.name in wanted.essential:
            chosen.append(source)
            if pattern == source.name:  # a pattern such as "*" means all that can be
                faults.append(
                    errors.PluginError(f"the {source.title} cannot be disabled; take it out of disable_plugins")
                )
        else:
            disabled.append((source, pattern))
    kept = _without_conflicts(chosen, wanted.choices, faults)
    for requirement in wanted.required:
        fault = _unmet(requirement, kept, disabled)
        if fault is not None:
            faults.append(fault)
    return Selection(kept, disabled, faults)


def explicit(item: object, name: str | None = None, origin: Origin = "given") -> Source:
    """The source of a plugin that somebody holds or names as ``module:attribute``."""
    if isinstance(item, str):
        return Source(name or item, origin, path=item)
    return Source(name or _type_name(item), origin, item=item)


# --- candidates -----------------------------------------------------------------------------------------------


def _candidates(wanted: Wanted) -> list[Source]:
    found = [Source(name, "built in", item=item) for name, item in wanted.builtin.items()]
    # Sorted, because the order in which folders are listed differs between machines.
    offers = sorted(entrypoints.offers(GROUP), key=lambda offer: (offer.name, offer.target))
    if offers and (wanted.disabled or wanted.required):
        # Both may speak of distributions.
        offers = list(entrypoints.owners(offers))
    names = {item.lower() for item in wanted.named if isinstance(item, str)}
    found += [
        Source(offer.name.lower(), "entry point", offer=offer)
        for offer in offers
        if wanted.autoload or offer.name.lower() in names
    ]
    taken = {source.name for source in found} | {source.target for source in found if source.offer is not None}
    for origin, items in (("setting", wanted.named), ("given", wanted.given)):
        for item in items:
            source = explicit(item, origin=origin)  # type: ignore[arg-type]
            if isinstance(item, str) and (item in taken or item.lower() in taken):
                continue
            if any(other.item is not None and other.item is source.item for other in found):
                continue
            found.append(_with_free_name(source, taken))
            taken.add(found[-1].name)
    return found


def _with_free_name(source: Source, taken: Iterable[str]) -> Source:
    """Two instances of one class are two plugins."""
    name, number = source.name, 1
    while name in taken:
        number += 1
        name = f"{source.name}#{number}"
    return Source(name, source.origin, path=source.path, item=source.item)


def _blocking(source: Source, patterns: Sequence[str]) -> str | None:
    """The entry of `disable_plugins` that switches it off: a name or a distribution, with ``*`` for any text."""
    for pattern in patterns:
        if fnmatch.fnmatchcase(source.name, pattern.lower()) or source.name == pattern:
            return pattern
        if source.offer is not None and source.offer.distribution:
            owner = entrypoints.canonical(source.offer.distribution)
            if fnmatch.fnmatchcase(owner, entrypoints.canonical(pattern)):
                return pattern
    return None


def _without_conflicts(
    sources: Sequence[Source], choices: Mapping[str, str], faults: list[errors.PluginError]
) -> list[Source]:
    by_name: dict[str, list[Source]] = {}
    for source in sources:
        by_name.setdefault(source.name, []).append(source)
    kept: list[Source] = []
    for name, rivals in by_name.items():
        offers = [source.offer for source in rivals if source.offer is not None]
        if len(offers) < len(rivals) and len(rivals) > 1:
            both = " and ".join(f"the {source.title}" for source in rivals)
            faults.append(errors.PluginError(f"{both} bear one name; rename one, or disable one distribution"))
            kept.append(rivals[0])
            continue
        if not offers:
            kept.extend(rivals)
            continue
        try:
            offer = drivers.choose(GROUP, name, offers, choices, what="hook plugin")
            kept.append(Source(name, "entry point", offer=offer))
        except errors.DriverConflict as exc:
            fault = errors.PluginError(f"{exc}; or disable one: disable_plugins = [{_owned(offers[0]).distribution!r}]")
            fault.__cause__ = exc
            faults.append(fault)
    return kept


# --- what is required -----------------------------------------------------------------------------------------


def _unmet(
    requirement: str, sources: Sequence[Source], disabled: Sequence[tuple[Source, str]]
) -> errors.PluginError | None:
    """Why an entry of `required_plugins` is not met; None when it is."""
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        return errors.PluginError(
            f"required_plugins has {requirement!r}; an entry is a plugin's or distribution's name, or name>=version"
        )
    name, specifier = match.groups()
    for source in sources:
        if _is_called(source, name):
            return _version_fault(requirement, specifier, source)
    for source, pattern in disabled:
        if _is_called(source, name):
            return errors.PluginError(
                f"required_plugins asks for {name!r}, and disable_plugins has {pattern!r}, which switches it off"
            )
    here = ", ".join(sorted(source.name for source in sources)) or "none"
    return errors.PluginError(
        f"required_plugins asks for {requirement!r}, which is not installed. Install it, or take it off the list. "
        f"Plugins that are here: {here}"
    )


def _is_called(source: Source, name: str) -> bool:
    if source.name == name or source.name == name.lower():
        return True
    owner = source.offer.distribution if source.offer is not None else ""
    return bool(owner) and entrypoints.canonical(owner) == entrypoints.canonical(name)


def _version_fault(requirement: str, specifier: str, source: Source) -> errors.PluginError | None:
    if not specifier:
        return None
    version = _owned(source.offer).version if source.offer is not None else ""
    if not version:
        return errors.PluginError(f"required_plugins asks for {requirement!r}, and the {source.title} has no version")
    try:
        fits = fulfils(version, specifier)
    except ValueError as exc:
        return errors.PluginError(f"required_plugins has {requirement!r}: {exc}")
    if fits:
        return None
    return errors.PluginError(
        f"required_plugins asks for {requirement!r}, and version {version} is installed: the {source.title}"
    )


def fulfils(version: str, specifier: str) -> bool:
    """Whether `version` is within `specifier`, such as ``>=1.2,<2``. Raises ValueError for what is no specifier."""
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
    except ImportError:
        return _fulfils_plainly(version, specifier)
    try:
        return bool(SpecifierSet(specifier).contains(version, prereleases=True))
    except InvalidSpecifier:
        raise ValueError(f"{specifier!r} is no version specifier, such as '>=1.2,<2'") from None


def _fulfils_plainly(version: str, specifier: str) -> bool:
    """The same for versions made of numbers; `packaging` is no dependency of ours."""
    ours = _numbers(version)
    for clause in specifier.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError(f"{clause!r} is no version specifier, such as '>=1.2,<2'")
        sign, theirs = match.group(1), _numbers(match.group(2))
        width = max(len(ours), len(theirs))
        left, right = (numbers + (0,) * (width - len(numbers)) for numbers in (ours, theirs))
        compatible = left >= right and ours[: len(theirs) - 1] == theirs[:-1]
        fits = {
            ">=": left >= right,
            "<=": left <= right,
            ">": left > right,
            "<": left < right,
            "==": left == right,
            "!=": left != right,
            "~=": compatible,
        }
        if not fits[sign]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])) or (0,)


def _owned(offer: Offer) -> Offer:
    return offer if offer.distribution else entrypoints.owners([offer])[0]


def _type_name(item: Any) -> str:
    if isinstance(item, ModuleType):
        return item.__name__
    kind = item if isinstance(item, type) or inspect.isfunction(item) else type(item)
    return f"{kind.__module__}.{kind.__qualname__}"
