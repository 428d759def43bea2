"""Ids of tasks, ids of processes, and the names that tasks get by themselves."""

from __future__ import annotations

import os
import sys
from typing import Final

# Version 4 and the variant of RFC 4122 leave two bits of this digit.
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def new_id() -> str:
    """A random id, the text of a UUID of version 4.

    Read from the system at each call: a pool of random bytes would be copied by a fork, and ids doubled.
    """
    return _as_uuid(os.urandom(16).hex())


def new_ids(count: int) -> list[str]:
    """So many of them, read from the system at once: for who gives them all away now."""
    digits = os.urandom(16 * count).hex()
    return [_as_uuid(digits[at : at + 32]) for at in range(0, 32 * count, 32)]


def derive_id(parent_id: str, role: str, index: int = 0) -> str:
    """The id of successor `index` in a `role` (``link``, ``errback``, ...) of the task `parent_id`.

    The same for the same three values, everywhere and always, so that a successor that is published again is
    recognised; otherwise as unlikely to meet another as a random one.
    """
    from hashlib import blake2b  # brings OpenSSL along, which only whoever has successors needs

    text = f"{parent_id}\0{role}\0{index}".encode("utf-8", "surrogatepass")
    return _as_uuid(blake2b(text, digest_size=16).hexdigest())


def _as_uuid(digits: str) -> str:
    head, tail = digits[:13], digits[17:]
    return f"{head[:8]}-{head[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{tail[:3]}-{tail[3:]}"


def process_name() -> str:
    """``gen<pid>@<host>``: the `origin` of what this process publishes."""
    import socket  # costs more than this module, and is asked for once for each task

    return f"gen{os.getpid()}@{socket.gethostname()}"


def task_name(function_name: str, module: str, main: str | None) -> str:
    """``module.name``; a module that is run as a script takes the name of the app, or that of its file."""
    if module == "__main__":
        module = main or _script_name() or module
    return f"{module}.{function_name}" if module else function_name


def _script_name() -> str | None:
    """The name under which a worker would import what runs as ``__main__``."""
    script = sys.modules.get("__main__")
    spec = getattr(script, "__spec__", None)
    if spec is not None and spec.name:  # python -m package.module
        name: str = spec.name
        return name.removesuffix(".__main__")
    file = getattr(script, "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else None
