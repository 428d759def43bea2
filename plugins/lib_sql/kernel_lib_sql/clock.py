"""The clock that leases run on where all owners share one host."""

from __future__ import annotations

import time
from pathlib import Path


def uptime() -> float:
    """Seconds since the host started, time asleep included; steps of the wall clock do not move it."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def boot_id() -> str:
    """What differs between two starts of the host, so that an uptime of an earlier one is not believed."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Without the file (macOS), the moment of the start, in steps large enough to survive rounding.
        return f"started-{round((time.time() - time.monotonic()) / 60)}"
