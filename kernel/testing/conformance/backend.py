"""The conformance kit for result backends.

    class TestMyBackend(BackendConformance):
        def make_backend(self, tmp_path, expires=86400.0):
            return MyBackend(BackendConfig(url="my://localhost", expires=expires))

Everything the driver declares in its `capabilities` is tested. The side doors (`second`, `kill_connections`) are
described at `BackendKit`.
"""

from __future__ import annotations

from kernel.testing.conformance.backend_kit import BackendKit
from kernel.testing.conformance.backend_records import AttemptCases, RecordCases, TerminalCases
from kernel.testing.conformance.backend_sets import ChordCases, ExpiryCases, GroupCases, LifeCases
from kernel.testing.conformance.backend_watch import WatchCases

__all__ = ["BackendConformance", "BackendKit"]


class BackendConformance(
    RecordCases, TerminalCases, AttemptCases, WatchCases, GroupCases, ChordCases, ExpiryCases, LifeCases
):
    """All cases. A subclass whose name starts with ``Test`` and that gives `make_backend` is all that is needed."""
