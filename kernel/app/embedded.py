"""The embedded default: where an app keeps its data when nobody said where."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import quote

from kernel import errors

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")


def calling_file(app: object) -> str | None:
    """The file of the code that makes `app`, past the constructors of the app and its subclasses."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        is_constructor = code.co_name == "__init__" and frame.f_locals.get(code.co_varnames[0]) is app
        if not is_constructor and frame.f_globals.get("__name__") != __name__:
            return frame.f_globals.get("__file__")
        frame = frame.f_back
    return None


def embedded_path(*, name: str | None, file: str | None, data: str | None) -> Path:
    """The SQLite file of an app: `data`, or ``.kernel/<name>.db`` beside `file` (or in the current directory)."""
    if data:
        return Path(data).expanduser().absolute()
    folder = Path(file).absolute().parent if file else Path.cwd()
    stem = name or (Path(file).stem if file else "kernel")
    return folder / ".kernel" / f"{_UNSAFE.sub('_', stem)}.db"


def url_of(path: Path) -> str:
    return f"sqlite:///{quote(str(path))}"


def make_room(path: Path) -> None:
    """Make the folder of an embedded file, for its owner alone. Raises `ImproperlyConfigured` when it cannot be."""
    folder = path.parent
    if folder.is_dir():
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.name == ".kernel":
            # Data of a running app is nothing to commit beside its code.
            (folder / ".gitignore").write_text("*\n")
    except OSError as exc:
        raise errors.ImproperlyConfigured(
            f"the folder {folder} of the embedded default cannot be made: {os.strerror(exc.errno or 0)}. "
            "Set KERNEL_DATA (or the setting `data`) to a file that can be written, or set broker_url"
        ) from exc
