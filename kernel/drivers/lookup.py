"""From a name or a URL to a driver class, and every way in which a driver can be missing.

Names are checked before anything is imported, and only the driver that was asked for is. What an error can say is
worth the extra look at the disk that it costs; what succeeds needs none. No text made here holds a URL, since URLs
hold passwords: the scheme says enough.
"""

from __future__ import annotations

import difflib
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kernel import errors
from kernel.drivers import entrypoints
from kernel.drivers.entrypoints import Offer
from kernel.drivers.table import DRIVERS

Kind = Literal["brokers", "backends", "serializers", "compressors", "pools", "schedulers"]
State = Literal["installed", "ok", "conflict", "broken", "incompatible", "not installed"]

KINDS: Final[tuple[Kind, ...]] = ("brokers", "backends", "serializers", "compressors", "pools", "schedulers")


@dataclass(frozen=True, slots=True)
class _Interface:
    """How a kind is called in a text, and where its contract is, which is imported with the first driver."""

    word: str
    module: str
    name: str

    @property
    def version(self) -> tuple[int, int]:
        """The one that we speak."""
        found: tuple[int, int] = importlib.import_module(self.module).INTERFACE
        return found

    @property
    def protocol(self) -> type:
        found: type = getattr(importlib.import_module(self.module), self.name)
        return found


_INTERFACES: Final[Mapping[str, _Interface]] = {
    "brokers": _Interface("broker", "kernel.interfaces.broker", "Broker"),
    "backends": _Interface("result backend", "kernel.interfaces.backend", "Backend"),
    "serializers": _Interface("serializer", "kernel.interfaces.serializer", "Serializer"),
    "compressors": _Interface("compressor", "kernel.interfaces.serializer", "Compressor"),
    "pools": _Interface("pool", "kernel.interfaces.pool", "Pool"),
    "schedulers": _Interface("scheduler", "kernel.interfaces.schedule", "ScheduleStore"),
}
# Schemes that Celery users have in their settings, and the driver that serves them.
_ALIASES: Final[Mapping[str, str]] = {
    "database": "sql",
    "db": "sql",
    "postgres": "postgresql",
    "sqla": "sql",
    "sqlalchemy": "sql",
}


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """A driver as a listing shows it. `detail` is the error in full where `state` tells of one, and `seconds`
    the time that the import took, where it was tried."""

    kind: Kind
    name: str
    distribution: str
    version: str
    target: str
    state: State
    detail: str = ""
    seconds: float | None = None


# --- the ways in ----------------------------------------------------------------------------------------------


def load(kind: Kind, name_or_url: str, *, choices: Mapping[str, str] | None = None) -> type[Any]:
    """The driver class for a name or for the scheme of a URL.

    ``postgresql+psycopg://`` means the driver ``postgresql.psycopg``, or else ``postgresql``. `choices` is the
    setting `drivers`. Raises `DriverNotFound` (no such name), `DriverNotInstalled` (with the line that installs it),
    `DriverBroken` (its import fails; the cause is chained), `DriverIncompatible` (written for another interface
    version) or `DriverConflict` (two distributions offer different drivers, and `choices` names neither).
    """
    _check_kind(kind)
    offer = _find(kind, candidate_names(kind, name_or_url), choices or {})
    return _import(kind, offer)


def available(kind: Kind, *, choices: Mapping[str, str] | None = None) -> Sequence[DriverInfo]:
    """Every driver of a kind that is installed, by name, without importing any: `installed` or `conflict`."""
    _check_kind(kind)
    rows: list[DriverInfo] = []
    for name, candidates in _by_name(entrypoints.offers_with_owners(f"kernel.{kind}")).items():
        try:
            chosen = [_choose(kind, name, candidates, choices or {})]
            state, detail = "installed", ""
        except errors.DriverConflict as exc:
            chosen, state, detail = candidates, "conflict", str(exc)
        rows += [_info(kind, offer, state, detail) for offer in chosen]  # type: ignore[arg-type]
    return rows


def missing(kind: Kind) -> Sequence[DriverInfo]:
    """The drivers of this project that are not installed; `detail` is the line that installs them."""
    _check_kind(kind)
    here = {offer.name.lower() for offer in entrypoints.offers_with_owners(f"kernel.{kind}")}
    return [
        DriverInfo(kind, name, distribution, "", "", "not installed", f"pip install 'kernel[{extra}]'")
        for name, (distribution, extra) in DRIVERS.get(kind, {}).items()
        if name not in here
    ]


def check(info: DriverInfo) -> DriverInfo:
    """The same driver, imported: `ok` with the time that took, or `broken` or `incompatible` and why."""
    if info.state not in ("installed", "ok"):
        return info
    offer = Offer(f"kernel.{info.kind}", info.name, info.target, info.distribution, info.version)
    started = time.perf_counter()
    try:
        _import(info.kind, offer)
        state, detail = "ok", ""
    except errors.DriverIncompatible as exc:
        state, detail = "incompatible", str(exc)
    except errors.DriverBroken as exc:
        state, detail = "broken", str(exc)
    return _info(info.kind, offer, state, detail, time.perf_counter() - started)  # type: ignore[arg-type]


def candidate_names(kind: Kind, name_or_url: str) -> Sequence[str]:
    """The driver names that a name or URL may mean, in the order in which they are tried.

    Raises `DriverNotFound` for a text that is neither.
    """
    text = name_or_url.strip() if isinstance(name_or_url, str) else ""
    scheme = (text.partition(":")[0] if ":" in text else text).lower()
    first, plus, _ = scheme.partition("+")
    names = [scheme.replace("+", "."), first] if plus else [scheme]
    if _ALIASES.get(first) and kind in ("brokers", "backends", "schedulers"):
        names.append(_ALIASES[first])
    if not first or any(character in text.partition(":")[0] for character in "/@ "):
        raise errors.DriverNotFound(
            f"a {_INTERFACES[kind].word} is given by a name or by a URL with a scheme, such as "
            f"{_example(kind)}; what was given is {_shown(text)}"
        )
    return names


def _shown(text: str) -> str:
    """What was given, unless it may hold a password where nobody can say which part that is."""
    return "empty" if not text else "neither" if "@" in text else f"{text!r:.80}"


# --- finding --------------------------------------------------------------------------------------------------


def _check_kind(kind: str) -> None:
    if kind not in _INTERFACES:
        raise ValueError(f"{kind!r} is no kind of driver; there are {', '.join(KINDS)}")


def _find(kind: Kind, names: Sequence[str], choices: Mapping[str, str]) -> Offer:
    group = f"kernel.{kind}"
    # The list that is at hand may be older than an installation: before an error, the disk is asked.
    for listing in (entrypoints.offers, entrypoints.offers_with_owners):
        by_name = _by_name(listing(group))
        for name in names:
            if name in by_name:
                return _choose(kind, name, by_name[name], choices)
    for name in names:
        if name in DRIVERS.get(kind, {}):
            raise _not_installed(kind, name)
    raise _not_found(kind, names[0], sorted(by_name))


def _by_name(found: Sequence[Offer]) -> dict[str, list[Offer]]:
    by_name: dict[str, list[Offer]] = {}
    for offer in found:
        by_name.setdefault(offer.name.lower(), []).append(offer)
    return dict(sorted(by_name.items()))


def _choose(kind: Kind, name: str, candidates: Sequence[Offer], choices: Mapping[str, str]) -> Offer:
    return choose(f"kernel.{kind}", name, candidates, choices, what=f"{_INTERFACES[kind].word} driver")


def choose(group: str, name: str, candidates: Sequence[Offer], choices: Mapping[str, str], *, what: str) -> Offer:
    """The one offer of a name, or the one whose distribution the setting `drivers` names.

    Targets are compared, and nothing is imported. Raises `DriverConflict`. `what` is for its text.
    """
    chosen = choices.get(f"{group}:{name}")
    different = entrypoints.by_target(candidates)
    if chosen is None and len(different) == 1:
        return different[0]
    owned = entrypoints.owners(different) if not all(offer.distribution for offer in different) else different
    if chosen is not None:
        for offer in owned:
            if entrypoints.canonical(offer.distribution) == entrypoints.canonical(chosen):
                return offer
        offering = ", ".join(offer.source for offer in owned)
        raise errors.DriverConflict(
            f"the setting drivers says that {group}:{name} comes from {chosen!r}, which does not offer it; "
            f"offered by: {offering}"
        )
    offering = " and ".join(f"{offer.source} ({offer.target})" for offer in owned)
    example = owned[0].distribution or "name-of-the-distribution"
    raise errors.DriverConflict(
        f"the {what} {name!r} is offered by {offering}, and they are not the same. Remove one, or say which is meant: "
        f'drivers = {{"{group}:{name}": "{example}"}}'
    )


def _not_installed(kind: Kind, name: str) -> errors.DriverNotInstalled:
    distribution, extra = DRIVERS[kind][name]
    return errors.DriverNotInstalled(
        f"the {_INTERFACES[kind].word} {name!r} is provided by {distribution}, which is not installed. "
        f"Run: pip install 'kernel[{extra}]'"
    )


def _not_found(kind: Kind, name: str, installed: Sequence[str]) -> errors.DriverNotFound:
    known = sorted({*installed, *DRIVERS.get(kind, {})})
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
    listed = ", ".join(installed) if installed else f"none (try: pip install 'kernel[{_SUGGESTED[kind]}]')"
    return errors.DriverNotFound(f"there is no {_INTERFACES[kind].word} driver {name!r}.{hint} Installed: {listed}")


_SUGGESTED: Final[Mapping[str, str]] = {
    "brokers": "sql",
    "backends": "sql",
    "serializers": "json",
    "compressors": "zlib",
    "pools": "prefork",
    "schedulers": "all",
}


def _example(kind: Kind) -> str:
    return {"brokers": "sqlite:///jobs.db", "backends": "sqlite:///jobs.db"}.get(kind, f"{_SUGGESTED[kind]!r}")


# --- loading --------------------------------------------------------------------------------------------------


def _import(kind: Kind, offer: Offer) -> type[Any]:
    try:
        loaded = offer.load()
    except errors.DriverError:
        raise
    except (Exception, SystemExit) as exc:
        moved = _moved(offer)
        if moved is not None:
            return _import(kind, moved)
        raise _broken(kind, offer, exc) from exc
    _check_class(kind, offer, loaded)
    _check_interface(kind, offer, loaded)
    _check_methods(kind, offer, loaded)
    driver: type[Any] = loaded
    return driver


def _moved(offer: Offer) -> Offer | None:
    """The same driver at another target: the list we had was older than its installation."""
    now = [other for other in entrypoints.offers_with_owners(offer.group) if other.name.lower() == offer.name.lower()]
    if len(now) == 1 and now[0].target != offer.target:
        return now[0]
    return None


def _owned(offer: Offer) -> Offer:
    return offer if offer.distribution else entrypoints.owners([offer])[0]


def _broken(kind: Kind, offer: Offer, cause: BaseException) -> errors.DriverBroken:
    offer = _owned(offer)
    remedy = f"Reinstall {offer.distribution or 'its distribution'}"
    if isinstance(cause, ModuleNotFoundError) and cause.name and not offer.module.startswith(cause.name):
        remedy = f"It needs the module {cause.name!r}: {remedy[0].lower()}{remedy[1:]}, or install what provides it"
    return errors.DriverBroken(
        f"the {_INTERFACES[kind].word} {offer.name!r} of {offer.source} is installed, but importing {offer.target} "
        f"fails: {type(cause).__name__}: {cause}. {remedy}"
    )


def _check_class(kind: Kind, offer: Offer, loaded: object) -> None:
    if isinstance(loaded, type):
        return
    offer = _owned(offer)
    raise errors.DriverBroken(
        f"the {_INTERFACES[kind].word} {offer.name!r} of {offer.source} points to {offer.target}, which is a "
        f"{type(loaded).__name__}; a class is needed"
    )


def _check_interface(kind: Kind, offer: Offer, driver: type[Any]) -> None:
    ours = _INTERFACES[kind].version
    theirs = getattr(driver, "interface", None)
    word = _INTERFACES[kind].word
    well_formed = isinstance(theirs, tuple) and len(theirs) == 2 and all(isinstance(part, int) for part in theirs)
    if theirs is not None and well_formed:
        if theirs[0] == ours[0] and theirs[1] <= ours[1]:
            return
        built_for, speak = (".".join(map(str, version)) for version in (theirs, ours))
        offer = _owned(offer)
        dist = offer.distribution or "its distribution"
        remedy = f"Upgrade kernel, or install an older {dist}" if theirs > ours else f"Upgrade {dist}"
        raise errors.DriverIncompatible(
            f"the {word} {offer.name!r} of {offer.source} was built for {word} interface {built_for}; this kernel "
            f"speaks {speak}. {remedy}"
        )
    offer = _owned(offer)
    raise errors.DriverIncompatible(
        f"the {word} {offer.name!r} of {offer.source} does not say which interface it was built for: "
        f"{offer.target}.interface is {theirs!r}; this kernel speaks {ours!r}, and a driver says so with a class "
        f"attribute: interface = {ours!r}"
    )


def _check_methods(kind: Kind, offer: Offer, driver: type[Any]) -> None:
    """A method that is missing is told here, not in the middle of the night."""
    wanted = _INTERFACES[kind].protocol
    methods = [name for name, value in vars(wanted).items() if name[0] != "_" and callable(value)]
    lacking = [name for name in methods if not callable(getattr(driver, name, None))]
    if not lacking:
        return
    offer = _owned(offer)
    raise errors.DriverBroken(
        f"the {_INTERFACES[kind].word} {offer.name!r} of {offer.source} lacks {', '.join(lacking)}: {offer.target} "
        f"must have every method of {wanted.__module__}.{wanted.__qualname__}"
    )


def _info(kind: Kind, offer: Offer, state: State, detail: str = "", seconds: float | None = None) -> DriverInfo:
    return DriverInfo(kind, offer.name, offer.distribution, offer.version, offer.target, state, detail, seconds)
