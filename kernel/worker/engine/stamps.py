"""Stamps whose bearers must not run: what `revoke_by_stamped_headers` leaves in a worker's memory."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kernel import errors

_MOST: Final = 50_000


class RevokedStamps:
    """Pairs of a stamp's name and one value; the oldest are forgotten when there are more than 50,000."""

    def __init__(self) -> None:
        # By their JSON: a value may be one that has no hash.
        self._pairs: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._names: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def add(self, stamps: Mapping[str, Any]) -> None:
        """A value, or a list of values, for each name."""
        for pair in _pairs(stamps):
            if pair not in self._pairs:
                self._pairs[pair] = None
                self._names[pair[0]] = self._names.get(pair[0], 0) + 1
        while len(self._pairs) > _MOST:
            (name, _), _ = self._pairs.popitem(last=False)
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]

    def match(self, headers: Mapping[str, Any]) -> bool:
        """Whether a message with these headers has one of the stamps: the value itself, or among others in a list."""
        names, stamps = headers.get("stamped_headers"), headers.get("stamps")
        if not isinstance(names, list) or not isinstance(stamps, dict):
            return False
        known = {name: stamps[name] for name in names if isinstance(name, str) and name in stamps}
        return any(pair in self._pairs for pair in _pairs({name: known[name] for name in self._names.keys() & known}))


def stamps_in(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stamps in a command. Raises `InvalidTaskError`."""
    found = arguments.get("headers")
    if not isinstance(found, dict) or not found:
        raise errors.InvalidTaskError(f"headers is {str(found)[:80]!r}; an object of stamps and their values is needed")
    return found


def _pairs(stamps: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in stamps.items():
        for one in [value, *value] if isinstance(value, list | tuple) else [value]:
            yield name, json.dumps(one, sort_keys=True, default=repr)
