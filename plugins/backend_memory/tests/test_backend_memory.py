"""The memory backend passes the kit, and stays small without a schedule."""

from __future__ import annotations

from pathlib import Path

from kernel_backend_memory import MemoryBackend

from kernel.interfaces.backend import BackendConfig, ChordPart, Record
from kernel.testing.conformance.backend import BackendConformance


class TestMemoryBackend(BackendConformance):
    now = 1000.0

    def make_backend(self, tmp_path: Path, expires: float | None = 86400.0) -> MemoryBackend:
        return MemoryBackend(BackendConfig(url="memory://", expires=expires, options={"clock": lambda: self.now}))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


def test_expired_records_are_deleted_on_the_way() -> None:
    now = 0.0
    backend = MemoryBackend(BackendConfig(url="memory://", expires=10, options={"clock": lambda: now}))
    for second in range(100):
        now = float(second)
        backend.store([Record(id=str(second), state="SUCCESS")])
    assert len(backend._records) == 10
    assert backend.cleanup() == 0
    now = 1000.0
    assert backend.cleanup() == 10


def test_groups_and_chords_expire_too() -> None:
    now = 0.0
    backend = MemoryBackend(BackendConfig(url="memory://", expires=10, options={"clock": lambda: now}))
    backend.save_group("g", "[]")
    backend.chord_parts([ChordPart("c", 2, 0, Record(id="a", state="SUCCESS"))])
    now = 11.0
    assert backend.load_group("g") is None
    backend.cleanup()
    assert backend.chord_parts([ChordPart("c", 2, 1, Record(id="b", state="SUCCESS"))])[0].arrived == 1


def test_two_backends_of_one_url_do_not_meet() -> None:
    first, second = (MemoryBackend(BackendConfig(url="memory://name")) for _ in range(2))
    first.store([Record(id="a", state="SUCCESS")])
    assert [*second.load(["a"])] == [None]
