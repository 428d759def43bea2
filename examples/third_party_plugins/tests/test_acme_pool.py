"""The acme pool passes the kit."""

from __future__ import annotations

from acme_kernel.pool import AcmePool

from kernel.testing.conformance.pool import PoolConformance


class TestAcmePool(PoolConformance):
    pool = AcmePool
