"""From names and URLs to driver classes, and the ways in which one can be missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from kernel_broker_memory import MemoryBroker

from kernel import drivers, errors
from kernel.drivers import entrypoints

TABLE = {"brokers": {"acmemq": ("kernel-broker-acmemq", "acmemq")}, "pools": {}}

POOL = """
    class Pool:
        interface = (1, 0)
        capabilities = None
        settings = ()
        def __init__(self, config): ...
        def serve(self, inbox): ...
"""


def pool(installer, name="acme", source=POOL, *, distribution="acme-pool", version="1.0", module="acme_pool", **more):
    installer.add(
        distribution,
        version,
        points={"kernel.pools": {name: f"{module}:Pool"}},
        modules={module: source},
        **more,
    )


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "names"),
    [
        ("pools", "prefork", ["prefork"]),
        ("pools", " Prefork ", ["prefork"]),
        ("brokers", "memory://", ["memory"]),
        ("brokers", "redis:", ["redis"]),
        ("brokers", "redis+cluster://a:6379/0", ["redis.cluster", "redis"]),
        ("brokers", "PostgreSQL+psycopg://u:secret@h/d", ["postgresql.psycopg", "postgresql"]),
        ("backends", "db+sqlite:///x.db", ["db.sqlite", "db", "sql"]),
        ("brokers", "sqla+sqlite:///x.db", ["sqla.sqlite", "sqla", "sql"]),
        ("brokers", "postgres://h/d", ["postgres", "postgresql"]),
        ("pools", "db", ["db"]),
    ],
)
def test_what_a_name_or_url_may_mean(kind, given, names):
    assert drivers.candidate_names(kind, given) == names


@pytest.mark.parametrize("given", ["", "  ", "//host/path", "user:pass@host/x", "/tmp/file.db", None, "a b"])
def test_what_is_neither_a_name_nor_a_url(given):
    with pytest.raises(errors.DriverNotFound) as caught:
        drivers.load("brokers", given)
    assert "sqlite:///jobs.db" in str(caught.value) or "there is no broker driver 'user'" in str(caught.value)
    assert "pass" not in str(caught.value)
    assert not given or not given.strip() or "@" in given or repr(given.strip()) in str(caught.value)


def test_a_kind_that_does_not_exist_is_a_bug_of_ours():
    with pytest.raises(ValueError, match="'broker' is no kind of driver"):
        drivers.load("broker", "memory")


# --- success --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["memory", "memory://", "MEMORY://", "memory+anything://x"])
def test_a_driver_by_name_and_by_url(given):
    assert drivers.load("brokers", given) is MemoryBroker


def test_the_dotted_name_of_a_scheme_wins(installer):
    plain = POOL.replace("(1, 0)", "(1, 0); which = 'plain'")
    installer.add(
        "acme",
        points={"kernel.pools": {"acme.turbo": "acme_turbo:Pool", "acme": "acme_plain:Pool"}},
        modules={"acme_turbo": POOL, "acme_plain": plain},
    )
    assert drivers.load("pools", "acme+turbo://").__module__ == "acme_turbo"
    assert drivers.load("pools", "acme+other://").__module__ == "acme_plain"


def test_only_the_driver_that_was_asked_for_is_imported(installer):
    pool(installer)
    pool(installer, "other", "raise SystemExit('imported')", distribution="other", module="other_pool")
    assert drivers.load("pools", "acme").__name__ == "Pool"
    assert "other_pool" not in sys.modules


def test_what_was_installed_after_the_first_look_is_found(installer):
    drivers.load("pools", "solo")
    pool(installer)
    # The list of this process is older than the installation.
    from stevedore import ExtensionManager

    stale = [point for point in ExtensionManager.ENTRY_POINT_CACHE.get("kernel.pools", []) if point.name != "acme"]
    ExtensionManager.ENTRY_POINT_CACHE["kernel.pools"] = stale
    assert drivers.load("pools", "acme").__module__ == "acme_pool"


def test_what_moved_after_the_first_look_is_found(installer):
    from importlib.metadata import EntryPoint

    from stevedore import ExtensionManager

    pool(installer)
    ExtensionManager.ENTRY_POINT_CACHE["kernel.pools"] = [EntryPoint("acme", "acme_before:Pool", "kernel.pools")]
    assert drivers.load("pools", "acme").__module__ == "acme_pool"


# --- the four errors ------------------------------------------------------------------------------------------


def test_a_known_name_whose_distribution_is_absent(monkeypatch):
    monkeypatch.setattr("kernel.drivers.lookup.DRIVERS", TABLE)
    with pytest.raises(errors.DriverNotInstalled) as caught:
        drivers.load("brokers", "acmemq+tls://user:secret@host")
    text = str(caught.value)
    assert "kernel-broker-acmemq, which is not installed" in text
    assert text.endswith("Run: pip install 'kernel[acmemq]'")
    assert "secret" not in text


def test_an_unknown_name_brings_the_nearest_and_the_installed_ones(monkeypatch):
    monkeypatch.setattr("kernel.drivers.lookup.DRIVERS", TABLE)
    with pytest.raises(errors.DriverNotFound) as caught:
        drivers.load("brokers", "memry://")
    assert "there is no broker driver 'memry'. Did you mean 'memory'?" in str(caught.value)
    assert "Installed: " in str(caught.value)
    assert "sqlite" in str(caught.value)


def test_with_no_driver_of_a_kind_at_all_something_is_suggested(monkeypatch):
    monkeypatch.setattr(entrypoints, "offers", lambda group: [])
    monkeypatch.setattr(entrypoints, "offers_with_owners", lambda group: [])
    monkeypatch.setattr("kernel.drivers.lookup.DRIVERS", {})
    with pytest.raises(errors.DriverNotFound, match=r"Installed: none \(try: pip install 'kernel\[prefork\]'\)"):
        drivers.load("pools", "what")


@pytest.mark.parametrize(
    ("source", "tells"),
    [
        ("import no_such_library_of_ours", "It needs the module 'no_such_library_of_ours'"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("raise SystemExit('stop')", "SystemExit: stop"),
        ("def Pool(: pass", "SyntaxError"),
        ("class Other: ...", "has no attribute 'Pool'"),
    ],
)
def test_a_driver_whose_import_fails(installer, source, tells):
    pool(installer, source=source, version="2.3")
    with pytest.raises(errors.DriverBroken) as caught:
        drivers.load("pools", "acme")
    text = str(caught.value)
    assert "the pool 'acme' of acme-pool 2.3 is installed, but importing acme_pool:Pool fails" in text
    assert tells in text
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("source", "kind"), [("Pool = 5", "int"), ("import json as Pool", "module")])
def test_a_target_that_is_no_class(installer, source, kind):
    pool(installer, source=source)
    with pytest.raises(errors.DriverBroken, match=f"which is a {kind}; a class is needed"):
        drivers.load("pools", "acme")


def test_a_driver_that_lacks_a_method_is_told_at_once(installer):
    pool(installer, source="class Pool:\n    interface = (1, 0)\n")
    with pytest.raises(errors.DriverBroken, match=r"lacks serve: .* every method of kernel\.interfaces\.pool\.Pool"):
        drivers.load("pools", "acme")


@pytest.mark.parametrize(
    ("version", "remedy"),
    [("(2, 0)", "Upgrade kernel, or install an older acme-pool"), ("(0, 9)", "Upgrade acme-pool")],
)
def test_another_interface_version(installer, version, remedy):
    pool(installer, source=POOL.replace("(1, 0)", version))
    with pytest.raises(errors.DriverIncompatible) as caught:
        drivers.load("pools", "acme")
    built = version.strip("()").replace(", ", ".")
    assert f"acme-pool 1.0 was built for pool interface {built}; this kernel speaks 1.0. {remedy}" in str(caught.value)


def test_a_minor_version_above_ours_is_refused(installer):
    pool(installer, source=POOL.replace("(1, 0)", "(1, 7)"))
    with pytest.raises(errors.DriverIncompatible, match="Upgrade kernel"):
        drivers.load("pools", "acme")


@pytest.mark.parametrize("version", ["'1.0'", "(1,)", "None", "1"])
def test_an_interface_version_that_says_nothing(installer, version):
    pool(installer, source=POOL.replace("(1, 0)", version))
    with pytest.raises(errors.DriverIncompatible, match=r"interface = \(1, 0\)"):
        drivers.load("pools", "acme")


# --- conflicts ------------------------------------------------------------------------------------------------


def test_two_distributions_of_one_name(installer):
    pool(installer, source="raise SystemExit('imported')")
    pool(installer, source=POOL, distribution="rival-pool", version="3.1", module="rival_pool")
    with pytest.raises(errors.DriverConflict) as caught:
        drivers.load("pools", "acme")
    text = str(caught.value)
    assert "acme-pool 1.0 (acme_pool:Pool)" in text
    assert "rival-pool 3.1 (rival_pool:Pool)" in text
    assert 'drivers = {"kernel.pools:acme":' in text
    assert not {"acme_pool", "rival_pool"} & set(sys.modules), "compared before anything is imported"


def test_the_setting_drivers_chooses(installer):
    pool(installer, source="raise SystemExit('imported')")
    pool(installer, source=POOL, distribution="Rival.Pool", module="rival_pool")
    chosen = drivers.load("pools", "acme", choices={"kernel.pools:acme": "rival-pool"})
    assert chosen.__module__ == "rival_pool"
    with pytest.raises(errors.DriverConflict, match="comes from 'nobody', which does not offer it"):
        drivers.load("pools", "acme", choices={"kernel.pools:acme": "nobody"})


def test_the_same_target_twice_is_no_conflict(installer):
    pool(installer)
    installer.add("acme-pool-copy", points={"kernel.pools": {"acme": "acme_pool:Pool"}})
    assert drivers.load("pools", "acme").__module__ == "acme_pool"


def test_a_distribution_that_is_hidden_by_another_folder_is_no_conflict(installer, tmp_path, monkeypatch):
    pool(installer)
    older = tmp_path / "older"
    monkeypatch.setattr(sys, "path", [*sys.path, str(older)])
    pool(installer, module="acme_pool_before", version="0.9", folder=older)
    assert drivers.load("pools", "acme").__module__ == "acme_pool"


# --- listings -------------------------------------------------------------------------------------------------


def test_available_imports_nothing_and_names_owners(installer):
    pool(installer, source="raise SystemExit('imported')", version="4.5")
    rows = {row.name: row for row in drivers.available("pools")}
    acme = rows["acme"]
    assert (acme.distribution, acme.version, acme.target, acme.state) == (
        "acme-pool",
        "4.5",
        "acme_pool:Pool",
        "installed",
    )
    assert rows["solo"].distribution == "kernel-pool-solo"
    assert list(rows) == sorted(rows)


def test_a_conflict_is_listed_with_both_sides(installer):
    pool(installer)
    pool(installer, distribution="rival-pool", module="rival_pool")
    rows = [row for row in drivers.available("pools") if row.name == "acme"]
    assert {row.distribution for row in rows} == {"acme-pool", "rival-pool"}
    assert {row.state for row in rows} == {"conflict"}
    chosen = drivers.available("pools", choices={"kernel.pools:acme": "rival-pool"})
    assert [row.distribution for row in chosen if row.name == "acme"] == ["rival-pool"]


def test_check_imports_and_says_how_it_went(installer):
    pool(installer)
    pool(installer, "broken", "import gone_library", distribution="broken-pool", module="broken_pool")
    pool(installer, "old", POOL.replace("(1, 0)", "(0, 1)"), distribution="old-pool", module="old_pool")
    rows = {row.name: drivers.check(row) for row in drivers.available("pools")}
    assert rows["acme"].state == "ok"
    assert rows["acme"].seconds is not None
    assert rows["broken"].state == "broken"
    assert "gone_library" in rows["broken"].detail
    assert rows["old"].state == "incompatible"
    assert rows["prefork"].state == "ok"


def test_missing_lists_what_could_be_installed(monkeypatch):
    monkeypatch.setattr(
        "kernel.drivers.lookup.DRIVERS", TABLE | {"brokers": {**TABLE["brokers"], "memory": ("x", "y")}}
    )
    (row,) = drivers.missing("brokers")
    assert (row.name, row.state, row.detail) == ("acmemq", "not installed", "pip install 'kernel[acmemq]'")


@pytest.mark.parametrize("kind", drivers.KINDS)
def test_every_driver_of_this_project_loads_and_speaks_our_interface(kind):
    ours = [row for row in drivers.available(kind) if row.distribution.startswith("kernel-")]
    assert [row.detail for row in map(drivers.check, ours) if row.state != "ok"] == []


def test_a_half_removed_distribution_takes_nothing_down(installer):
    (installer.folder / "leftover-1.0.dist-info").mkdir()
    (installer.folder / "leftover-1.0.dist-info" / "entry_points.txt").write_text("[kernel.pools]\nleft = left:Pool\n")
    installer.refresh()
    assert "solo" in {row.name for row in drivers.available("pools")}


def test_importing_drivers_reads_no_entry_point():
    script = (
        "import sys; from kernel import drivers\n"
        "heavy = {'stevedore', 'importlib.metadata', 'email'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "drivers.load('brokers', 'memory'); assert 'stevedore' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
