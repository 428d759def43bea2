"""The conformance kit for brokers.

    class TestMyBroker(BrokerConformance):
        def make_broker(self, tmp_path):
            return MyBroker(BrokerConfig(url="my://localhost"))

Everything the driver declares in its `capabilities` is tested, and what it does not claim must be refused. The
side doors (`second`, `make_backend`, `raw_depth`, `kill_connections`) are described at `BrokerKit`.
"""

from __future__ import annotations

from kernel.testing.conformance.broker_claims import ClaimCases, LeaseCases
from kernel.testing.conformance.broker_ends import DeadLetterCases, EndCases, SettleCases
from kernel.testing.conformance.broker_joins import JoinCases
from kernel.testing.conformance.broker_kit import BrokerKit
from kernel.testing.conformance.broker_life import AdminCases, LifeCases, TopicCases
from kernel.testing.conformance.broker_publish import DelayCases, OrderCases, PublishCases
from kernel.testing.conformance.broker_routes import RouteCases
from kernel.testing.conformance.broker_shortcuts import ShortcutCases

__all__ = ["BrokerConformance", "BrokerKit"]


class BrokerConformance(
    PublishCases,
    OrderCases,
    DelayCases,
    ClaimCases,
    LeaseCases,
    SettleCases,
    DeadLetterCases,
    EndCases,
    JoinCases,
    ShortcutCases,
    AdminCases,
    TopicCases,
    RouteCases,
    LifeCases,
):
    """All cases. A subclass whose name starts with ``Test`` and that gives `make_broker` is all a test module needs."""
