"""What the cases of the backend kit stand on: the factory, the side doors, and a few helpers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kernel.interfaces.backend import Backend, Record, StoreOutcome, StoreState, Watch
from kernel.testing.conformance.background import Background

DAY = 86400.0


def new_id() -> str:
    return str(uuid.uuid4())


def ended(id: str, state: str = "SUCCESS", result: bytes = b'"kit"', **fields: Any) -> Record:
    """A terminal record."""
    return Record(id=id, state=state, result=result, date_done=time.time(), **fields)


def states(outcomes: Sequence[StoreOutcome]) -> list[StoreState]:
    return [outcome.state for outcome in outcomes]


class BackendKit:
    """Subclasses give `make_backend`, and open the side doors that they have."""

    patience = 10.0
    """Seconds that something may take which should happen at once; only a hang is longer."""

    def make_backend(self, tmp_path: Path, expires: float | None = DAY) -> Backend:
        """A new backend on an empty store of its own, or on one that others use with other ids; not opened."""
        raise NotImplementedError("the test class of a backend gives make_backend(self, tmp_path, expires)")

    def second(self, backend: Backend) -> Backend | None:
        """Another instance, not opened, on the same store; None where there can be none."""
        return None

    def kill_connections(self, backend: Backend) -> bool:
        """Cut the driver's connections as a network would; False where there are none."""
        return False

    def pass_time(self, seconds: float) -> None:
        """Let `seconds` go by on the backend's clock."""
        time.sleep(seconds)

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        backend = self.make_backend(tmp_path)
        backend.open()
        yield backend
        backend.close()

    @pytest.fixture
    def twin(self, backend: Backend) -> Iterator[Backend]:
        """The same store seen by another process, as far as one process can play that."""
        if not backend.capabilities.crosses_processes:
            pytest.skip("this backend does not cross processes")
        twin = self.second(backend)
        if twin is None:
            pytest.fail("a backend that crosses processes needs second(self, backend) to prove it")
        twin.open()
        yield twin
        twin.close()

    def needs(self, backend: Backend, capability: str) -> None:
        if not getattr(backend.capabilities, capability):
            pytest.skip(f"this backend does not claim {capability}")

    def keeps(self, backend: Backend) -> None:
        """For cases about records that stand where everybody sees them."""
        if backend.capabilities.to_caller:
            pytest.skip("this backend keeps no records: it sends them to who called")

    def lacks(self, backend: Backend, capability: str) -> None:
        if getattr(backend.capabilities, capability):
            pytest.skip(f"this backend claims {capability}")

    def collect(self, watch: Watch, until: Callable[[list[Record]], bool]) -> list[Record]:
        """What the watch brings until there is enough, or patience ends."""
        deadline = time.monotonic() + self.patience
        seen: list[Record] = []
        while not until(seen) and time.monotonic() < deadline:
            seen += watch.wait(0.5)
        return seen

    def load_one(self, backend: Backend, id: str) -> Record:
        (record,) = backend.load([id])
        assert record is not None, f"there is no record of {id}"
        return record

    def in_thread(self, work: Callable[[], object]) -> Background:
        return Background(work, self.patience)
