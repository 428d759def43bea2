"""Scripts that run on the server, called by their digest."""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A Lua script. The server keeps it by its digest; where it was forgotten the text is sent again."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.sha: Final = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def by_digest(self, *args: object) -> tuple[object, ...]:
        """The command that runs it with `args` as ARGV and no declared keys."""
        return ("EVALSHA", self.sha, 0, *args)

    def by_text(self, *args: object) -> tuple[object, ...]:
        return ("EVAL", self.text, 0, *args)
