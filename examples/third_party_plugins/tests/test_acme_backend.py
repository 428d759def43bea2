"""The acme backend passes the kit, and survives what happens to files."""

from __future__ import annotations

from pathlib import Path

import pytest
from acme_kernel.backend import AcmeBackend

from kernel.errors import ImproperlyConfigured, OperationalError
from kernel.interfaces.backend import BackendConfig, ChordPart, Record
from kernel.testing.conformance.backend import BackendConformance


def backend_at(path: Path, expires: float | None = 86400.0) -> AcmeBackend:
    return AcmeBackend(BackendConfig(url=f"acme://{path}/results.log", expires=expires))


class TestAcmeBackend(BackendConformance):
    def make_backend(self, tmp_path: Path, expires: float | None = 86400.0) -> AcmeBackend:
        self.path = tmp_path
        return backend_at(tmp_path, expires)

    def second(self, backend: AcmeBackend) -> AcmeBackend:
        return backend_at(self.path)


def test_a_line_that_was_not_finished_is_cut_off(tmp_path: Path) -> None:
    first = backend_at(tmp_path)
    first.open()
    first.store([Record(id="a", state="SUCCESS")])
    with (tmp_path / "results.log").open("ab") as file:
        file.write(b'{"at": 1, "do": "reco')
    second = backend_at(tmp_path)
    second.open()
    second.store([Record(id="b", state="SUCCESS")])
    assert [record.id for record in first.load(["a", "b"]) if record] == ["a", "b"]
    first.close()
    second.close()


def test_cleaning_up_keeps_what_is_in_time_for_everyone(tmp_path: Path) -> None:
    first, second = backend_at(tmp_path), backend_at(tmp_path)
    first.open()
    second.open()
    first.store([Record(id="a", state="SUCCESS")])
    first.save_group("g", "[1]")
    for index in (1, 0):
        first.chord_parts([ChordPart("c", 2, index, Record(id=f"part-{index}", state="SUCCESS"))])
    first.chord_parts([ChordPart("open", 2, 1, Record(id="early", state="SUCCESS"))])
    assert first.cleanup() == 0
    assert [record is not None for record in second.load(["a"])] == [True]
    assert second.load_group("g") == "[1]"
    assert second.chord_parts([ChordPart("c", 2, 0, Record(id="again", state="SUCCESS"))])[0].complete
    assert second.chord_parts([ChordPart("open", 2, 0, Record(id="late", state="SUCCESS"))])[0].complete
    first.close()
    second.close()


def test_it_refuses_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"acme:///var/lib/app/results\.log"):
        AcmeBackend(BackendConfig(url="acme://"))
    (tmp_path / "file").touch()
    with pytest.raises(OperationalError, match="cannot open"):
        backend_at(tmp_path / "file").open()
