"""The fork server: imports the app, tells the engine what is in it, and forks children when asked.

It runs no tasks and holds no connection. The engine speaks to it over a datagram pair in JSON; with the news of
a child comes its pidfd, so that the engine watches and signals a process, never a number.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kernel import drivers, errors
from kernel.worker import logs
from kernel.worker import manifest as manifests
from kernel.worker.options import WorkerOptions
from kernel.worker.processes.parent import die_with_parent
from kernel.worker.processes.wiring import Wiring

_CHUNK = 48_000


ChildEntry = Callable[[Any, "WorkerOptions", Wiring, int], None]


class ForkServer:
    """One of these runs in the fork server's process, on its main thread."""

    def __init__(self, wiring: Wiring, options: WorkerOptions, *, load_app: Callable[[], Any]) -> None:
        self._wiring = wiring
        self._options = options
        self._load_app = load_app
        self._control = socket.socket(fileno=wiring.control)
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, tuple[int, int]] = {}  # pidfd -> (number, pid)
        self._app: Any = None
        self._spawn_method = "fork"

    def run(self) -> int:
        """Serve until the engine says so or is gone; the exit status."""
        _ignore_terminal()
        die_with_parent(self._wiring.engine_pid, self._wiring.alive)
        try:
            self._app = self._load_app()
            document = manifests.describe(self._app, self._options)
        except BaseException as exc:
            # The project's own errors say what is wrong; of anybody else's the place is needed, too.
            text = "" if isinstance(exc, errors.KernelError) else traceback.format_exc()
            self._tell({"event": "failed", "kind": type(exc).__name__, "error": _explain(exc), "text": text})
            return 3
        finally:
            logs.flush()  # what the import printed: each child would have a copy of it
        _import_backend(self._app, document)
        self._spawn_method = document.settings.get("worker_start_method") or "fork"
        self._tell({"event": "manifest", "manifest": document.to_json()})
        # What the import made stays for ever: keeping the collector away from it keeps its pages shared.
        gc.collect()
        gc.freeze()
        self._selector.register(self._control, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    if not self._obey():
                        return 0
                else:
                    self._bury(key.fd)

    def _obey(self) -> bool:
        data = self._control.recv(_CHUNK)
        if not data:
            return False
        command = json.loads(data)
        if command["command"] == "exit":
            return False
        self._spawn(int(command["number"]))
        return True

    def _spawn(self, number: int) -> None:
        try:
            pid = os.fork()
        except OSError as exc:
            self._tell({"event": "spawn-failed", "number": number, "error": str(exc)})
            return
        if pid == 0:
            self._become_child(number)
        pidfd = _open_pidfd(pid)
        self._tell({"event": "spawned", "number": number, "pid": pid}, pidfd)
        if pidfd >= 0:
            self._children[pidfd] = (number, pid)
            self._selector.register(pidfd, selectors.EVENT_READ)
        else:
            threading.Thread(target=self._wait_for, args=(number, pid), daemon=True).start()

    def _become_child(self, number: int) -> None:
        """Never returns. A fresh interpreter where `worker_start_method` is spawn."""
        status = 1
        try:
            self._selector.close()
            self._control.close()
            for pidfd in self._children:
                os.close(pidfd)
            if self._spawn_method == "spawn":
                arguments = [sys.executable, "-m", "kernel.worker.processes.child"]
                arguments += [self._wiring.dump(), self._options.dump(), str(number), str(os.getppid())]
                os.execv(sys.executable, arguments)  # noqa: S606 - no shell is wanted
            from kernel.worker.processes import child  # the child alone pays for what it needs

            child.run(self._app, self._options, self._wiring, number)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            logs.flush()
            os._exit(status)

    def _bury(self, pidfd: int) -> None:
        number, pid = self._children.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._tell({"event": "exited", "number": number, "pid": pid, "status": _status_of(pid)})

    def _wait_for(self, number: int, pid: int) -> None:
        status = _status_of(pid)
        self._tell({"event": "exited", "number": number, "pid": pid, "status": status})

    def _tell(self, event: dict[str, Any], fd: int = -1) -> None:
        """One event; a long one goes in several datagrams, each but the last marked by a leading ``+``."""
        data = json.dumps(event).encode()
        try:
            while len(data) > _CHUNK - 1:
                self._control.send(b"+" + data[: _CHUNK - 1])
                data = data[_CHUNK - 1 :]
            if fd >= 0:
                socket.send_fds(self._control, [b" " + data], [fd])
            else:
                self._control.send(b" " + data)
        except OSError:
            os._exit(1)  # the engine is gone


class ControlReader:
    """The engine's side of the control pair: puts events together again."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._parts: list[bytes] = []

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self) -> tuple[dict[str, Any], int] | None:
        """The next event and the descriptor that came with it (-1: none); None when there is no whole one
        yet. Raises EOFError when the fork server is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, _CHUNK, 1, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError:
            data, fds = b"", []
        if not data:
            raise EOFError("the fork server has ended")
        self._parts.append(data[1:])
        if data[:1] == b"+":
            return None
        whole, self._parts = b"".join(self._parts), []
        return json.loads(whole), (fds[0] if fds else -1)

    def command(self, **words: Any) -> None:
        try:
            self.socket.send(json.dumps(words).encode())
        except OSError:
            return  # its end is noticed where it is read


def _import_backend(app: Any, document: manifests.Manifest) -> None:
    """What children need when the first result is stored: here it is imported once for all of them, and nobody waits
    for it. One that is not there is told to whoever uses it."""
    import kernel.app.opened  # noqa: F401 - for the children, as well

    if document.backend_url:
        with suppress(errors.KernelError):
            drivers.load("backends", document.backend_url, choices=app.conf.drivers)


def _open_pidfd(pid: int) -> int:
    """-1 where there is no such thing, or the process is gone already."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
    except OSError:
        return -1


def _status_of(pid: int) -> int:
    """Wait for the end of a child; 0 when an app that ignores SIGCHLD or waits for any child took its status."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0


def _ignore_terminal() -> None:
    """The terminal's interrupt goes to the whole group; only the engine acts on it. A handler, not SIG_IGN,
    which programs that tasks start would inherit."""
    for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1"):
        signal.signal(getattr(signal, name), _nothing)


def _nothing(_signum: int, _frame: object) -> None:
    """A signal that is somebody else's."""


def _explain(exc: BaseException) -> str:
    if isinstance(exc, errors.KernelError):
        return str(exc)
    if isinstance(exc, SystemExit):
        return f"the app called sys.exit({exc.code!r}) while it was imported"
    return f"{type(exc).__name__}: {exc}"


def main(argv: list[str]) -> int:
    """Entry of a fork server that was executed anew: wiring and options as JSON."""
    wiring, options = Wiring(**json.loads(argv[0])), WorkerOptions.parse(argv[1])
    return ForkServer(wiring, options, load_app=lambda: manifests.load_app(options)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
