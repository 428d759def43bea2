"""What it costs to have `kernel` at all: its import, its command, and a hook that nobody implements."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import OURS, Case, Figure
from benchmarks.marks import DeliveryError
from benchmarks.processes import ROOT

# Names of `kernel` are loaded at their first use, so what a program pays is the import of what it uses.
IMPORTS = {"import": "import kernel", "kernel": "from kernel import Kernel"}
TIMED = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
CALLS = 1_000_000


def run(command: list[str], cache: Path) -> str:
    """With the compiled modules in `cache`, as an installer leaves them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise DeliveryError(f"{' '.join(command)}: {done.stderr[-300:]}")
    return done.stdout


def imports(folder: Path) -> Mapping[str, float]:
    help_command = [str(Path(sys.executable).parent / "kernel"), "--help"]
    commands = {key: [sys.executable, "-c", TIMED.format(code)] for key, code in IMPORTS.items()}
    for command in (*commands.values(), help_command):
        run(command, folder)  # compiles
    values = {key: float(run(command, folder)) * 1000 for key, command in commands.items()}
    began = time.perf_counter()
    run(help_command, folder)
    return {**values, "help": (time.perf_counter() - began) * 1000}


def idle_hook(_folder: Path) -> Mapping[str, float]:
    """The time of a loop that offers a hook nobody listens to, less the time of the empty loop."""
    from kernel import Kernel

    app = Kernel("idle")
    hot = app.extensions.bind()
    began = time.perf_counter()
    for _ in range(CALLS):
        pass
    middle = time.perf_counter()
    for number in range(CALLS):
        # This is how the hot paths ask; see the engine's intake.
        if hot.kernel_message_received is not None:
            raise DeliveryError(f"somebody listens at call {number}")
    end = time.perf_counter()
    app.close()
    return {"call": ((end - middle) - (middle - began)) / CALLS * 1e6}


CASES = [
    Case(
        "start",
        "a fresh interpreter",
        [
            Figure("import", "import kernel", "ms", "at most", 60),
            Figure("kernel", "from kernel import Kernel", "ms", "at most", 60),
            Figure("help", "kernel --help", "ms", "at most", 150),
        ],
        {OURS: imports},
    ),
    Case(
        "hook",
        "a hot hook with no implementation",
        [Figure("call", "idle hook", "µs a call", "at most", 0.1)],
        {OURS: idle_hook},
    ),
]
