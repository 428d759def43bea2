"""Scripts that run on the server, called by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final


class Script:
    """A Lua script. The server keeps it by its digest; where it was forgotten the text is sent again."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.sha: Final = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def by_digest(self, keys: Sequence[object], args: Sequence[object]) -> tuple[object, ...]:
        """The command that runs it with `args` as ARGV. `keys` is the number of the declared keys, and these."""
        return ("EVALSHA", self.sha, *keys, *args)

    def by_text(self, keys: Sequence[object], args: Sequence[object]) -> tuple[object, ...]:
        return ("EVAL", self.text, *keys, *args)
