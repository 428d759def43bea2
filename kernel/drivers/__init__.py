"""From a name or URL to a driver's class, and the ways in which one can be missing."""

from __future__ import annotations

from kernel.drivers.lookup import KINDS, DriverInfo, Kind, available, candidate_names, check, choose, load, missing

__all__ = ["KINDS", "DriverInfo", "Kind", "available", "candidate_names", "check", "choose", "load", "missing"]
