"""The command line: `kernel`. Importing this package loads no command and no command-line library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel.app import Kernel

__all__ = ["main"]


def main(argv: Sequence[str] | None = None, *, app: Kernel | None = None) -> int:
    """Run a command and return its exit code (see `kernel.cli.exits`).

    `argv` is without the program's name (None: that of the process). `app` is used where no ``-A`` says otherwise.
    """
    from kernel.cli.frame import run

    return run(argv, app=app)
