"""What RQ's worker is told."""

from __future__ import annotations

import os

REDIS_URL = os.environ["BENCH_DATABASE"]
