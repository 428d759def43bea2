"""The table behind "pip install ..." says what the workspace says."""

from __future__ import annotations

import generate_driver_table as generator
import pytest
from workspace import distributions

from kernel.drivers.table import DRIVERS


def test_the_table_is_what_the_generator_writes():
    fresh = generator.TABLE.read_text(encoding="utf-8") == generator.text()
    assert fresh, "kernel/drivers/table.py is stale; run: python scripts/generate_driver_table.py"
    assert generator.main(["--check"]) == 0


def test_every_driver_of_the_workspace_is_in_it_with_an_extra_that_brings_it():
    kernel, *members = distributions()
    count = 0
    for member in members:
        for group, names in member.entry_points.items():
            kind = group.removeprefix("kernel.")
            for name in names if kind in generator.KINDS else ():
                distribution, extra = DRIVERS[kind][name]
                assert distribution == member.name
                assert any(line.startswith(f"{distribution}>") for line in kernel.extras[extra]), (name, extra)
                count += 1
    assert count > 25


def test_names_that_people_will_ask_for_are_known():
    assert {"redis", "rediss", "amqp", "amqps", "pyamqp"} <= set(DRIVERS["brokers"])
    assert {"redis", "rediss", "rpc"} <= set(DRIVERS["backends"])
    assert {"gevent", "eventlet"} <= set(DRIVERS["pools"])


def test_a_planned_name_that_has_come_is_refused(monkeypatch):
    monkeypatch.setitem(generator.PLANNED["pools"], "threads", ("kernel-pool-later", "later"))
    with pytest.raises(SystemExit, match="pools threads exist now"):
        generator.table()


def test_a_driver_without_an_extra_is_refused():
    kernel = distributions()[0]
    with pytest.raises(SystemExit, match="no extra of kernel brings kernel-broker-nobody"):
        generator.extra_for("nobody", "kernel-broker-nobody", kernel)


def test_a_stale_table_is_told(monkeypatch, tmp_path, capsys):
    stale = generator.ROOT / "kernel" / "no_such_table.py"
    monkeypatch.setattr(generator, "TABLE", stale)
    assert generator.main(["--check"]) == 1
    assert "is stale; run: python scripts/generate_driver_table.py" in capsys.readouterr().out
