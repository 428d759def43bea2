"""Names of keys and channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kernel import errors
from kernel.interfaces.broker import Bound, QueueSpec

_STEPS: Final = (0, 3, 6, 9)
_SEP: Final = "\x06\x16"
_MAX_NAME: Final = 4096


class Layout:
    """kombu's names for what both systems use, and ours under ``kernel:``."""

    def __init__(self, prefix: str, db: int, options: Mapping[str, Any]) -> None:
        self.prefix = prefix
        self.sep = str(options.get("sep") or _SEP)
        self.steps = _steps(options.get("priority_steps"))
        fanout = options.get("fanout_prefix", True)
        self._fanout = f"/{db}." if fanout is True else fanout or ""

    def queue(self, name: str) -> str:
        """The key of the first list of a queue, which stands for the queue in our own keys too."""
        return self.prefix + name

    def lists(self, name: str) -> list[str]:
        """The lists of a queue, in the order in which they are worked off."""
        first = self.queue(name)
        return [first if step == 0 else f"{first}{self.sep}{step}" for step in self.steps]

    def list_of(self, name: str, priority: int) -> str:
        """The list for a priority: clamped to the steps and rounded down."""
        step = max((each for each in self.steps if each <= priority), default=self.steps[0])
        return self.queue(name) if step == 0 else f"{self.queue(name)}{self.sep}{step}"

    def name(self, key: str) -> str:
        """The name of a queue by its key."""
        return key[len(self.prefix) :]

    def own(self, name: str, what: str) -> str:
        return f"{self.prefix}kernel:{{{self.queue(name)}}}:{what}"

    @property
    def queues(self) -> str:
        return f"{self.prefix}kernel:queues"

    def wake(self, consumer: str) -> bytes:
        return f"{self.prefix}kernel:wake:{consumer}".encode()

    def channel(self, topic: str) -> bytes:
        """Where kombu publishes what goes to everyone who listens."""
        return f"{self.prefix}{self._fanout}{topic}".encode("utf-8", "surrogatepass")

    def table(self, exchange: str) -> str:
        """The set of what is bound to an exchange."""
        return f"{self.prefix}_kombu.binding.{exchange}"

    def bindings(self, spec: QueueSpec) -> list[tuple[str, str]]:
        """The sets that tell producers of a queue, and its members. A fanout is published, and has none."""
        found = []
        for binding in spec.bindings:
            kind, key = binding.exchange.type, binding.key
            if kind in ("direct", "topic", "headers"):
                # kombu knows no headers exchanges, and takes the entry for a routing key that nobody has.
                pattern = topic_pattern(key) if kind == "topic" else kind if kind == "headers" else ""
                found.append((self.table(binding.exchange.name), self.sep.join((key, pattern, spec.name))))
        return found

    def bound(self, member: str) -> Bound | None:
        """What a member of such a set says; None for what is none."""
        parts = member.split(self.sep)
        if len(parts) != 3 or not parts[2]:
            return None
        kind = "headers" if parts[1] == "headers" else "topic" if parts[1] else "direct"
        return Bound(parts[2], parts[0], kind)

    def fault(self, name: str) -> str:
        """Why this cannot be the name of a queue, or ""."""
        if not isinstance(name, str) or not name:
            return "a name is a text of at least one character"
        if len(name) > _MAX_NAME:
            return f"it has {len(name)} characters; {_MAX_NAME} are the most"
        if self.sep in name:
            return f"it has {self.sep!r} in it, which separates queues and priorities"
        if any("\ud800" <= char <= "\udfff" for char in name):
            return "it has half of a surrogate pair"
        return ""

    def check(self, names: Sequence[str]) -> list[str]:
        """Raises `ImproperlyConfigured` for a name that cannot be used."""
        for name in names:
            if why := self.fault(name):
                raise errors.ImproperlyConfigured(f"{name!r} cannot be the name of a queue: {why}")
        return list(dict.fromkeys(names))


def topic_pattern(key: str) -> str:
    return "^" + key.replace(".", r"\.").replace("*", r"[^\.]+").replace("#", r".*?") + "$"


def _steps(given: object) -> tuple[int, ...]:
    if given is None:
        return _STEPS
    if isinstance(given, list | tuple) and given and all(isinstance(step, int) and step >= 0 for step in given):
        return tuple(sorted(set(given)))
    raise errors.InvalidSetting(
        f"broker_transport_options['priority_steps'] is {given!r}; a list of whole numbers from 0 on is needed"
    )
