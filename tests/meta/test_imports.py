"""Every module imports alone, without a warning and without a side effect.

A module that only imports after another one hides a cycle. A fresh interpreter for each would take half a
minute, so one bare interpreter forks for each module: the fork has loaded no module of ours, nor of anyone's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from workspace import ROOT, distributions

PROBE = textwrap.dedent(
    """
    import _json, json, os, signal, sys, threading, traceback  # what the probe itself needs
    sys.path.pop(0)

    def look():
        watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
        return {
            "threads": threading.active_count(),
            "descriptors": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
            "signals": [str(signal.getsignal(number)) for number in watched],
            "directory": sorted(os.listdir(".")),
            "environment": sorted(os.environ),
        }

    def trial(name, write):
        before = look()
        os.dup2(write, 1)
        __import__(name)
        sys.stdout.flush()
        after = look()
        changed = [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]
        if changed:
            raise SystemExit("its import changed " + ", ".join(changed))
        if name.split(".")[0] == "kernel":
            plugins = sorted({module.split(".")[0] for module in sys.modules if module.startswith("kernel_")})
            if plugins:
                raise SystemExit("its import loaded plugins: " + ", ".join(plugins))

    for name in json.loads(sys.argv[1]):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status, text = 0, ""
            try:
                trial(name, write)
            except SystemExit as error:
                status, text = 1, str(error)
            except BaseException:
                status, text = 1, traceback.format_exc()
            os.write(2, (json.dumps([name, text]) + "\\n").encode() if text else b"")
            os._exit(status)
        os.close(write)
        printed = os.read(read, 1000)
        os.close(read)
        _, status = os.waitpid(pid, 0)
        if printed:
            os.write(2, (json.dumps([name, f"import printed {printed!r}"]) + "\\n").encode())
        elif status and not os.WIFEXITED(status):
            os.write(2, (json.dumps([name, f"import ended with status {status}"]) + "\\n").encode())
    """
)


def modules() -> list[str]:
    """The dotted name of every module of every distribution."""
    found = []
    for distribution in distributions():
        base = distribution.folder
        for path in sorted(distribution.package.rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            if parts[-1] != "__main__":
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def test_every_module_imports_alone_without_warning_or_side_effect(tmp_path: Path) -> None:
    names = modules()
    assert len(names) > 40
    half = len(names) // 2
    probes = []
    for number, batch in enumerate((names[:half], names[half:])):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-W", "error", "-c", PROBE, json.dumps(batch)]
        probes.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True))
    failures = []
    for probe in probes:
        _, errors = probe.communicate(timeout=100)
        failures += errors.splitlines()
        assert probe.returncode == 0, errors
    report = "\n".join("{}: {}".format(*json.loads(line)) if line.startswith("[") else line for line in failures)
    assert not failures, report


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_import_of_kernel_reads_no_entry_point_and_loads_nothing_heavy() -> None:
    code = """
import sys, importlib.metadata
def refuse(*args, **kwargs): raise AssertionError("entry points were read at import")
importlib.metadata.entry_points = importlib.metadata.distributions = refuse
from kernel import *
from kernel import Kernel
heavy = {"stevedore", "click", "sqlalchemy", "kombu", "asyncio", "sqlite3", "multiprocessing"}
print(",".join(sorted(heavy & set(sys.modules))))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"import kernel loads {done.stdout}"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="counts threads in /proc")
def test_two_imports_in_one_process_are_one() -> None:
    done = run("import kernel, sys; first = kernel.Kernel; import kernel; assert kernel.Kernel is first")
    assert done.returncode == 0, done.stderr
