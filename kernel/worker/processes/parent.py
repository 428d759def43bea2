"""Ties a process's life to its parent's, without the help of Python: a child that holds the GIL in C for an hour
still ends when the engine does.

The engine starts the fork server, the fork server starts the children; each asks the kernel to be killed when its
parent is gone (Linux `prctl(PR_SET_PDEATHSIG)`, man 2 prctl). Where that does not exist a thread watches a pipe
whose other end only the engine holds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent_pid: int, pipe_fd: int | None = None) -> None:
    """End this process when the one with `parent_pid` ends; at once if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:  # it died before the call
            os._exit(1)
    elif pipe_fd is not None:
        threading.Thread(target=_watch, args=(pipe_fd,), name="kernel-parent", daemon=True).start()


def _watch(fd: int) -> None:
    while os.read(fd, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
