"""A file by which ``kernel doctor`` knows of a worker on this machine without asking it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def run_directory() -> Path:
    """``KERNEL_RUN_DIR``, else ``kernel`` in the user's runtime folder, else one of the user's own in the
    system's folder for temporary files."""
    given = os.environ.get("KERNEL_RUN_DIR")
    if given:
        return Path(given)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime, "kernel")
    return Path(tempfile.gettempdir(), f"kernel-{os.getuid()}")


class StatusFile:
    """One worker's file, replaced as a whole at each write; failures to write are not the worker's trouble."""

    def __init__(self, hostname: str) -> None:
        safe = "".join(char if char.isalnum() or char in "@.-_" else "_" for char in hostname)[:100]
        self._path = run_directory() / f"{safe}-{os.getpid()}.json"

    def write(self, values: Mapping[str, Any]) -> None:
        document = {"pid": os.getpid(), "written": time.time(), **values}
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._path.parent.stat().st_uid != os.getuid():
                return  # somebody else's folder: nothing of ours goes there
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(document))
            temporary.replace(self._path)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()


def read_statuses() -> Iterator[dict[str, Any]]:
    """What the living workers of this user on this machine wrote last; files of dead ones are removed."""
    directory = run_directory()
    if not directory.is_dir():
        return
    for path in sorted(directory.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            document = json.loads(path.read_text())
            if _is_alive(int(document["pid"])):
                yield document
            else:
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
