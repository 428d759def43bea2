"""What is installed: entry points by group, and the distributions that offer them. Imports none of them.

`offers` is stevedore's list, which is read once per process and kept on disk between processes. It carries no
distributions and may be a little behind what is installed, so whatever is about to become an error, and whatever a
person reads, is looked up afresh with `offers_with_owners`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_SEPARATORS: Final = re.compile(r"[-_.]+")


@dataclass(frozen=True)
class Offer:
    """An entry point: `target` is ``module:attribute``. `distribution` and `version` are empty where unknown."""

    group: str
    name: str
    target: str
    distribution: str = ""
    version: str = ""

    @property
    def module(self) -> str:
        return self.target.partition(":")[0].strip()

    @cached_property
    def entry_point(self) -> EntryPoint:
        from importlib.metadata import EntryPoint

        return EntryPoint(self.name, self.target, self.group)

    @property
    def source(self) -> str:
        """The distribution and its version, as an error names them."""
        return f"{self.distribution} {self.version}".strip() or "an unknown distribution"

    def load(self) -> Any:
        """Import the target. Raises whatever the import raises, or AttributeError."""
        return self.entry_point.load()


def offers(group: str) -> Sequence[Offer]:
    """The entry points of `group`, without their distributions; cheap after the first call in a process."""
    # Imported here: it brings importlib.metadata, email and zipfile, which `import kernel` is not to pay for.
    from stevedore.named import NamedExtensionManager

    # With no names it loads nothing, and lists everything. Its `DriverManager` would import all that share a name.
    manager: Any = NamedExtensionManager(group, names=(), on_missing_entrypoints_callback=None)
    return [Offer(group, point.name, point.value) for point in manager.list_entry_points()]


def offers_with_owners(group: str) -> Sequence[Offer]:
    """The same with distributions and versions, read from disk now: 5 to 20 ms."""
    from importlib import metadata

    found: list[Offer] = []
    seen: set[str] = set()
    for dist in metadata.distributions():
        key = _key_of(dist)
        if key in seen:
            # A later folder of the path: what Python would import from it is hidden by the first.
            continue
        seen.add(key)
        points = [point for point in dist.entry_points if point.group == group]
        if points:
            name, version = _title_of(dist)
            found.extend(Offer(group, point.name, point.value, name, version) for point in points)
    return found


def owners(unowned: Sequence[Offer]) -> Sequence[Offer]:
    """The same offers with their distributions; one that is no longer on disk keeps none."""
    if not unowned:
        return unowned
    known = {(offer.name, offer.target): offer for offer in offers_with_owners(unowned[0].group)}
    return [known.get((offer.name, offer.target), offer) for offer in unowned]


def by_target(candidates: Iterable[Offer]) -> list[Offer]:
    """One of each target: an installed and an editable copy of the same thing are no conflict."""
    return list({offer.target.replace(" ", ""): offer for offer in reversed(list(candidates))}.values())[::-1]


def canonical(distribution: str) -> str:
    """A distribution's name as it is compared: lower case, with single dashes (PEP 503)."""
    return _SEPARATORS.sub("-", distribution).lower()


def _key_of(dist: Any) -> str:
    # The library's own key, from the folder's name: parsing the metadata of everything costs 30 ms.
    return canonical(getattr(dist, "_normalized_name", None) or _title_of(dist)[0])


def _title_of(dist: Any) -> tuple[str, str]:
    """Name and version. A half removed installation has neither, and must not take the others down."""
    metadata = dist.metadata
    return (str(metadata["Name"] or ""), str(metadata["Version"] or "")) if metadata is not None else ("", "")
