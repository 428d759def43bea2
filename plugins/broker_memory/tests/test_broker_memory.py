"""The memory broker passes the kit."""

from __future__ import annotations

from pathlib import Path

from kernel_broker_memory import MemoryBroker

from kernel.interfaces.broker import BrokerConfig
from kernel.testing.conformance.broker import BrokerConformance


class TestMemoryBroker(BrokerConformance):
    short_lease = 0.3

    def make_broker(self, tmp_path: Path) -> MemoryBroker:
        return MemoryBroker(BrokerConfig(url="memory://"))
