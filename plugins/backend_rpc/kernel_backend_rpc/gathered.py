"""What lies in the queue of a chord: parts, members that were added to it, who completed it, and that its body ran."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from kernel.interfaces.backend import ChordPart, Record

DONE: Final = b'{"done": true}'
"""The body ran."""


def part(brought: ChordPart) -> bytes:
    record = brought.record
    return json.dumps(
        {
            "index": brought.index,
            "id": record.id,
            "state": record.state,
            "attempt": record.attempt,
            "type": record.content_type,
            "encoding": record.content_encoding,
            "result": base64.b64encode(record.result).decode(),
        }
    ).encode()


def added(index: int) -> bytes:
    """One member more, that the chord waits for."""
    return json.dumps({"added": index}).encode()


def last(index: int) -> bytes:
    """Who completed it."""
    return json.dumps({"last": index}).encode()


class Gathered:
    """What the messages in the queue of a chord that was made of `size` members come to, in their order.

    That order is the same for whoever reads them, since what is taken and not acknowledged goes back to its place. So
    it is one message that completes the chord, whoever looks, and what comes behind that changes nothing: a member
    that runs again may add others than in the run whose part is there.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.last: int | None = None
        self.done = False
        self._parts: dict[int, Record] = {}
        self._added: set[int] = set()
        self._missing = size

    @property
    def complete(self) -> bool:
        return self._missing == 0

    @property
    def added(self) -> int:
        """How many members it has more than it was made of."""
        return len(self._added)

    @property
    def records(self) -> list[Record]:
        """The parts by their index: of members, and of nobody that only believes to be one."""
        return [self._parts[index] for index in sorted(self._parts) if self._is_member(index)]

    def take(self, message: bytes) -> bool:
        """Whether the next message changes anything."""
        found = json.loads(message)
        if "done" in found:
            self.done = True
        elif "last" in found:
            self.last = found["last"]
        elif self.complete:
            return False
        elif "added" in found:
            return self._add(found["added"])
        else:
            return self._bring(found)
        return True

    def _is_member(self, index: int) -> bool:
        return index < self.size or index in self._added

    def _add(self, index: int) -> bool:
        if index in self._added:
            return False
        self._added.add(index)
        self._missing += index not in self._parts
        return True

    def _bring(self, found: dict[str, Any]) -> bool:
        index = found["index"]
        if index in self._parts:
            return False
        self._parts[index] = Record(
            id=found["id"],
            state=found["state"],
            attempt=found["attempt"],
            content_type=found["type"],
            content_encoding=found["encoding"],
            result=base64.b64decode(found["result"]),
        )
        self._missing -= self._is_member(index)
        return True
