"""Which hook plugins are found, named, given, switched off and required."""

from __future__ import annotations

import sys

import pytest

from kernel import builtin
from kernel.errors import PluginError
from kernel.extensions import Extensions
from kernel.hooks import hookimpl

GROUP = "kernel.plugins"


def bare(settings=None, *plugins, **options):
    """Extensions with nothing but what is given."""
    options = {"builtin": {}, "autoload": False, **options}
    return Extensions(settings or {}, plugins=plugins, **options)


def names(extensions):
    return [row.name for row in extensions.plugins() if row.state == "enabled"]


class Watcher:
    def __init__(self):
        self.seen = []

    @hookimpl
    def kernel_task_start(self, request):
        self.seen.append(request)


# --- what is found --------------------------------------------------------------------------------------------


SOURCE = """
    from kernel.hooks import hookimpl

    class Plugin:
        made = 0
        def __init__(self):
            type(self).made += 1
        @hookimpl
        def kernel_task_start(self, request):
            request.append("{name}")
"""


def install(installer, name="acme", distribution="acme-plugins", version="1.0", source=None):
    module = distribution.replace("-", "_")
    installer.add(
        distribution,
        version,
        points={GROUP: {name: f"{module}:Plugin"}},
        modules={module: source or SOURCE.replace("{name}", name)},
    )
    return module


def test_nothing_is_read_before_it_is_needed(installer):
    module = install(installer, source="raise SystemExit('imported')")
    before = set(sys.modules)
    extensions = Extensions({}, builtin={})
    assert not {name for name in set(sys.modules) - before if name.startswith("acme")}
    assert extensions.faults(), f"{module} is there to be read"


def test_plugins_are_found_by_entry_point(installer):
    install(installer, version="3.1")
    extensions = Extensions({}, builtin={})
    seen = []
    extensions.observe(extensions.hot.kernel_task_start, seen)
    assert "acme" in seen
    (row,) = [row for row in extensions.plugins() if row.name == "acme"]
    assert (row.distribution, row.version, row.origin) == ("acme-plugins", "3.1", "entry point")
    assert row.hooks == ("kernel_task_start",)


def test_every_app_has_instances_of_its_own(installer):
    module = install(installer)
    first, second = Extensions({}, builtin={}), Extensions({}, builtin={})
    assert first.get("acme") is not second.get("acme")
    assert sys.modules[module].Plugin.made == 2


def test_without_autoload_only_what_is_named_is_loaded(installer):
    install(installer)
    install(installer, "other", "other-plugins", source="raise SystemExit('imported')")
    assert names(bare()) == []
    assert names(bare({"plugins": ["acme"]})) == ["acme"]


def test_a_plugin_by_its_path(installer):
    module = install(installer)
    extensions = bare({"plugins": [f"{module}:Plugin"]})
    assert names(extensions) == [f"{module}:Plugin"]
    assert extensions.has("kernel_task_start")


def test_a_path_that_an_entry_point_has_already_is_one_plugin(installer):
    module = install(installer)
    extensions = Extensions({"plugins": [f"{module}:Plugin", "acme"]}, builtin={})
    assert len(extensions.hot.kernel_task_start) == 1


def test_objects_classes_and_factories():
    watcher = Watcher()
    extensions = bare({}, watcher, Watcher, lambda: Watcher())
    assert len(extensions.hot.kernel_task_start) == 3
    assert len({name for name, _ in extensions.hot.kernel_task_start}) == 3
    assert watcher in [extensions.get(name) for name in names(extensions)]


def test_the_same_object_twice_is_one_plugin():
    watcher = Watcher()
    assert len(bare({"plugins": [watcher]}, watcher).hot.kernel_task_start) == 1


def test_two_objects_of_one_class_have_two_names():
    assert next(name for name, _ in bare({}, Watcher(), Watcher()).hot.kernel_task_start).endswith("#2")


def test_the_engine_passes_over_objects(installer):
    module = install(installer)
    settings = {"plugins": [Watcher(), f"{module}:Plugin"]}
    assert names(bare(settings, where="engine")) == [f"{module}:Plugin"]
    assert len(names(bare(settings))) == 2


@pytest.mark.parametrize(
    ("path", "tells"),
    [
        ("no_such_module_of_ours:x", "ModuleNotFoundError"),
        ("json:nothing", "has no attribute 'nothing'"),
        ("", "ValueError"),
    ],
)
def test_a_path_that_leads_nowhere(path, tells):
    with pytest.raises(PluginError, match=tells) as caught:
        bare({"plugins": [path]}).load()
    assert "disable_plugins" in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("source", ["import gone_library", "raise SystemExit('no')", "class Plugin:\n  x = 1 / 0"])
def test_a_plugin_whose_import_fails_stops_the_start_with_its_name(installer, source):
    install(installer, version="2.0", source=source)
    extensions = Extensions({}, builtin={})
    for _ in range(2):  # a second attempt meets the same, and not the half of the first
        with pytest.raises(PluginError, match=r"plugin 'acme' of acme-plugins 2\.0 cannot be loaded"):
            extensions.hot  # noqa: B018
    assert [str(fault)[:13] for fault in extensions.faults()] == ["plugin 'acme'"]
    assert names(Extensions({"disable_plugins": ["acme"]}, builtin={})) == names(
        Extensions({"disable_plugins": ["acme-plugins"]}, builtin={})
    )


def test_all_faults_are_told_at_once():
    class Bad:
        @hookimpl
        def kernel_task_strat(self, request): ...

    with pytest.raises(PluginError) as caught:
        bare({"plugins": ["gone_one", "gone_two"], "required_plugins": ["needed"]}, Bad).load()
    text = str(caught.value)
    assert text.startswith("4 faults with plugins:\n- ")
    for part in ("gone_one", "gone_two", "needed", "kernel_task_strat"):
        assert part in text


def test_two_distributions_with_one_plugin_name(installer):
    install(installer, source="raise SystemExit('imported')")
    install(installer, "acme", "rival-plugins", "2.0")
    with pytest.raises(PluginError) as caught:
        Extensions({}, builtin={}).load()
    text = str(caught.value)
    assert "acme-plugins 1.0 (acme_plugins:Plugin)" in text
    assert "rival-plugins 2.0 (rival_plugins:Plugin)" in text
    assert "imported" not in text
    chosen = Extensions({"drivers": {"kernel.plugins:acme": "rival-plugins"}}, builtin={})
    assert type(chosen.get("acme")).__module__ == "rival_plugins"
    blocked = Extensions({"disable_plugins": ["acme-plugins"]}, builtin={})
    assert type(blocked.get("acme")).__module__ == "rival_plugins"


def test_a_plugin_may_not_take_the_name_of_a_built_in_one(installer):
    install(installer, "logs")
    with pytest.raises(PluginError, match=r"built-in plugin 'logs' and the plugin 'logs' of acme-plugins 1\.0"):
        Extensions({}).load()


# --- switches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["acme", "Acme", "acme-plugins", "Acme_Plugins", "ac*"])
def test_disabled_by_name_distribution_or_pattern(installer, pattern):
    install(installer, source="raise SystemExit('imported')")
    extensions = Extensions({"disable_plugins": [pattern]}, builtin={})
    extensions.load()
    (row,) = [row for row in extensions.plugins() if row.name == "acme"]
    assert (row.state, row.detail) == ("disabled", f"disable_plugins has {pattern!r}")
    assert not extensions.has("kernel_task_start")


def test_built_in_plugins_go_through_the_same_switch():
    assert Extensions({}).has("kernel_task_end")
    assert not Extensions({"disable_plugins": ["logs"]}, autoload=False).has("kernel_task_end")


def test_an_essential_plugin_refuses():
    (essential,) = builtin.ESSENTIAL
    with pytest.raises(PluginError, match=f"the built-in plugin '{essential}' cannot be disabled"):
        Extensions({"disable_plugins": [essential]}).load()
    assert names(Extensions({"disable_plugins": ["*"]})) == [essential]


def test_built_in_plugins_are_instances_of_each_app():
    first, second = builtin.default_plugins(), builtin.default_plugins()
    assert set(first) == set(second) >= builtin.ESSENTIAL
    assert not {id(item) for item in first.values()} & {id(item) for item in second.values()}


@pytest.mark.parametrize("required", ["acme", "acme-plugins", "acme>=1.2", "Acme_Plugins >=1.2,<2", "acme~=1.2"])
def test_what_is_required_and_there(installer, required):
    install(installer, version="1.2.3")
    extensions = Extensions({"required_plugins": [required]}, builtin={})
    extensions.load()
    assert "acme" in [row.name for row in extensions.plugins()]


@pytest.mark.parametrize(
    ("required", "tells"),
    [
        ("gone", "asks for 'gone', which is not installed"),
        ("acme>=2", "and version 1.2.3 is installed: the plugin 'acme' of acme-plugins 1.2.3"),
        ("acme!!", "is no version specifier"),
        (">=2", "an entry is a plugin's or distribution's name"),
    ],
)
def test_what_is_required_and_missing(installer, required, tells):
    install(installer, version="1.2.3")
    with pytest.raises(PluginError, match=tells):
        Extensions({"required_plugins": [required]}, builtin={}).load()


def test_required_and_disabled_at_once(installer):
    install(installer)
    with pytest.raises(PluginError, match=r"disable_plugins has 'ac.', which switches it off"):
        Extensions({"required_plugins": ["acme"], "disable_plugins": ["ac*"]}, builtin={}).load()


@pytest.mark.parametrize(
    ("version", "specifier", "fits"),
    [
        ("1.2.3", ">=1.2,<2", True),
        ("2.0", ">=1.2,<2", False),
        ("1.10", ">1.9", True),
        ("1.2", "==1.2.0", True),
        ("1.2", "!=1.2", False),
        ("1.3", "~=1.2", True),
        ("2.0", "~=1.2", False),
        ("1.2", "<=1.1", False),
    ],
)
def test_versions_without_the_packaging_library_mean_the_same(monkeypatch, version, specifier, fits):
    from kernel.extensions.sources import fulfils

    assert fulfils(version, specifier) is fits
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    assert fulfils(version, specifier) is fits
    with pytest.raises(ValueError, match="is no version specifier"):
        fulfils(version, "about 2")
