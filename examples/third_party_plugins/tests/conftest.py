"""These tests run where the package is installed, and in its checkout where it is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("acme_kernel") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
