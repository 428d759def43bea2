"""Where the server is now: at an address, at one of several, where Sentinel says, or where the cluster keeps a slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from redis.crc import key_slot
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from kernel import errors
from kernel_lib_redis.faults import connect_fault
from kernel_lib_redis.link import Link
from kernel_lib_redis.target import Manner, Target

_LONGEST_LOOK: Final = 1.0
"""Seconds that one Sentinel, or one node that says where the others are, may take to answer."""


class Place(Protocol):
    """`connect` makes a connection to where writes go now. Raises `OperationalError` while there is no such place,
    and `ImproperlyConfigured` where waiting does not help."""

    shown: str
    moves: bool

    def connect(self) -> Link: ...


class Fixed:
    """One server."""

    moves = False

    def __init__(self, target: Target) -> None:
        self.shown = target.shown
        self._target = target

    def connect(self) -> Link:
        return Link(self._target)


class Several:
    """The first of several that can be reached and takes writes; the one that did last is tried first."""

    moves = True

    def __init__(self, targets: Sequence[Target]) -> None:
        self.shown = joined([target.shown for target in targets])
        self._targets = tuple(targets)
        self._last = 0

    def connect(self) -> Link:
        count, reasons = len(self._targets), []
        for at in range(self._last, self._last + count):
            try:
                link = _primary(self._targets[at % count])
            except errors.OperationalError as exc:
                reasons.append(str(exc))
            else:
                self._last = at % count
                return link
        raise errors.OperationalError("no server can be used: " + "; ".join(reasons))


class Sentinel:
    """The primary that Sentinels know by a name."""

    moves = True

    def __init__(
        self,
        sentinels: Sequence[tuple[str, int]],
        name: str,
        *,
        manner: Manner,
        asking: Manner,
        others: int = 0,
        shown: str,
    ) -> None:
        self.shown = f"{shown} ({name})"
        self._sentinels = tuple(sentinels)
        self._name = name
        self._manner = manner
        self._asking = asking
        self._others = others

    def connect(self) -> Link:
        reasons: list[str] = []
        tried: set[tuple[str, int]] = set()
        ignorant = 0
        for sentinel in self._sentinels:
            try:
                place = self._ask(sentinel)
                if place is None:
                    ignorant += 1
                    reasons.append(f"{_text(sentinel)} knows no primary {self._name!r}")
                elif place not in tried:
                    tried.add(place)
                    link = _primary(self._manner.tcp(place, f"redis://{_text(place)} ({self._name})"))
                    self._prefer(sentinel)
                    return link
            except errors.OperationalError as exc:
                reasons.append(str(exc))
        why = "; ".join(reasons)
        if ignorant == len(self._sentinels):
            raise errors.ImproperlyConfigured(f"{why}; master_name must be what `SENTINEL MASTERS` calls it")
        raise errors.OperationalError(f"{self.shown} has no primary now: {why}")

    def _ask(self, sentinel: tuple[str, int]) -> tuple[str, int] | None:
        link = Link(self._asking.tcp(sentinel, f"sentinel://{_text(sentinel)}"))
        try:
            if self._others:
                self._count_others(link, sentinel)
            found = link.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        except errors.OperationalError as exc:
            _refuse_login(exc, link.shown)
            if isinstance(exc.__cause__, ResponseError) and "unknown command" in str(exc).lower():
                raise errors.ImproperlyConfigured(
                    f"{_text(sentinel)} is no Sentinel; write redis://{_text(sentinel)} for a Redis server"
                ) from exc
            raise
        finally:
            link.close()
        return None if not found else (found[0].decode(), int(found[1]))

    def _count_others(self, link: Link, sentinel: tuple[str, int]) -> None:
        facts = link.pipeline([("SENTINEL", "MASTER", self._name)])[0]
        if isinstance(facts, list):
            known = dict(zip(facts[::2], facts[1::2], strict=False))
            others = int(known.get(b"num-other-sentinels", 0))
            if others < self._others:
                raise errors.OperationalError(
                    f"{_text(sentinel)} sees {others} other Sentinels, and min_other_sentinels is {self._others}"
                )

    def _prefer(self, sentinel: tuple[str, int]) -> None:
        if self._sentinels[0] != sentinel:
            self._sentinels = (sentinel, *(each for each in self._sentinels if each != sentinel))


class Cluster:
    """The node of a cluster that has the slot of a prefix, which all keys share."""

    moves = True

    def __init__(
        self, seeds: Sequence[tuple[str, int]], prefix: str, *, manner: Manner, shown: str, setting: str
    ) -> None:
        if not has_tag(prefix):
            raise errors.ImproperlyConfigured(
                f"{shown} is a cluster, where the keys of a script must lie on one node, and global_keyprefix is "
                f"{prefix!r}; give it a part in braces that all keys share: {setting} = "
                "{'global_keyprefix': '{shop}'}"
            )
        self.shown = shown
        self.slot: Final = int(key_slot(prefix.encode()))
        self._seeds = tuple(seeds)
        self._nodes: tuple[tuple[str, int], ...] = ()
        self._manner = replace(manner, guard=f"{prefix}kernel:guard")

    def connect(self) -> Link:
        reasons: list[str] = []
        tried: set[tuple[str, int]] = set()
        for node in dict.fromkeys((*self._nodes, *self._seeds)):
            try:
                owner = self._ask(node)
                if owner not in tried:
                    tried.add(owner)
                    return _primary(self._manner.tcp(owner, _node(owner)))
            except errors.OperationalError as exc:
                reasons.append(str(exc))
        raise errors.OperationalError(f"no node of {self.shown} can be used: {'; '.join(reasons)}")

    def _ask(self, node: tuple[str, int]) -> tuple[str, int]:
        """Who has the slot, by what this node knows."""
        link = Link(self._manner.tcp(node, _node(node)))
        try:
            table = link.call("CLUSTER", "SLOTS")
        except errors.OperationalError as exc:
            _refuse_login(exc, link.shown)
            if isinstance(exc.__cause__, ResponseError) and "cluster support disabled" in str(exc):
                raise errors.ImproperlyConfigured(
                    f"{_text(node)} belongs to no cluster; write redis:// in place of redis+cluster://"
                ) from exc
            raise
        finally:
            link.close()
        known = [(_place(each, node), first, last) for first, last, *nodes in table for each in nodes[:1]]
        self._nodes = tuple(dict.fromkeys(place for place, _, _ in known))
        for place, first, last in known:
            if first <= self.slot <= last:
                return place
        raise errors.OperationalError(f"{_text(node)} knows no node for the slot {self.slot}")


def _place(node: Sequence[Any], asked: tuple[str, int]) -> tuple[str, int]:
    """A node that does not know its own address is where it was asked."""
    host = (node[0] or b"").decode()
    return (host if host not in ("", "?") else asked[0]), int(node[1])


def has_tag(prefix: str) -> bool:
    """Whether the keys that begin with `prefix` share a slot: by the text in its first braces."""
    start = prefix.find("{")
    return start >= 0 and prefix.find("}", start) > start + 1


def _refuse_login(exc: errors.OperationalError, shown: str) -> None:
    """A wrong login is no matter of time. Raises `ImproperlyConfigured` for one."""
    if isinstance(exc.__cause__, AuthenticationError | NoPermissionError):
        raise connect_fault(exc.__cause__, shown) from exc


def _primary(target: Target) -> Link:
    """A connection to a server that takes writes. Raises `OperationalError` for a replica."""
    link = Link(target)
    try:
        (role,) = link.pipeline([("ROLE",)])
    except errors.OperationalError as exc:
        link.close()
        _refuse_login(exc, target.shown)
        raise
    if isinstance(role, list) and role and role[0] != b"master":
        link.close()
        raise errors.OperationalError(f"{target.shown} is a {role[0].decode()} and takes no writes")
    if isinstance(role, BaseException) and link.broken:
        link.close()
        raise errors.OperationalError(f"{target.shown} cannot be used now: {role}")
    return link


def joined(shown: Sequence[str]) -> str:
    """Several URLs as one that people can read."""
    first, *others = shown
    return ";".join([first, *(other.partition("://")[2] for other in others)])


def _node(place: tuple[str, int]) -> str:
    return f"redis+cluster://{_text(place)}"


def _text(place: tuple[str, int]) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def asking(manner: Manner, kwargs: Mapping[str, Any]) -> Manner:
    """How Sentinels are asked: their login is that of `sentinel_kwargs` alone."""
    options: dict[str, Any] = {"socket_timeout": min(manner.timeout, _LONGEST_LOOK)}
    options["socket_connect_timeout"] = options["socket_timeout"]
    options.update({name: value for name, value in kwargs.items() if not name.startswith("ssl")})
    tls = {name: value for name, value in kwargs.items() if name.startswith("ssl_")}
    wanted = bool(tls) or bool(kwargs.get("ssl"))
    return Manner(manner.timeout, options, tls if wanted else None, 0)
