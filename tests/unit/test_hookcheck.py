"""Functions that cannot be called as hooks are refused when their plugin is registered."""

from __future__ import annotations

import types

import pytest

from kernel import hooks
from kernel.errors import PluginError
from kernel.extensions import Extensions
from kernel.extensions.check import spec_arguments
from kernel.hooks import hookimpl


def bare(settings=None, *plugins, **options):
    """Extensions with nothing but what is given."""
    options = {"builtin": {}, "autoload": False, **options}
    return Extensions(settings or {}, plugins=plugins, **options)


def plugin(**functions):
    """A module with these hooks."""
    module = types.ModuleType("made_up")
    for name, function in functions.items():
        setattr(module, name, hookimpl(function))
    return module


def names(extensions):
    return [row.name for row in extensions.plugins() if row.state == "enabled"]


# --- what a function must look like ---------------------------------------------------------------------------


async def coroutine(request):
    return None


async def stream(request):
    yield request


def yields(request):
    yield request


@pytest.mark.parametrize(
    ("hook", "function", "tells"),
    [
        ("kernel_task_strat", lambda request: None, "there is no such hook; did you mean kernel_task_start"),
        ("kernel_task_start", coroutine, "coroutine function, which nobody would await"),
        ("kernel_task_start", stream, "coroutine function"),
        ("kernel_task_start", yields, "generator function, whose body would never run"),
        ("kernel_task_start", lambda: None, r"right is kernel_task_start\(request\)"),
        ("kernel_task_end", lambda outcome, request: None, r"in their order; right is kernel_task_end\(request, out"),
        ("kernel_task_end", lambda request: None, "must take all arguments"),
        ("kernel_heartbeat", lambda snap: None, r"no argument 'snap'; did you mean snapshot\?"),
        ("kernel_heartbeat", lambda worker=None: None, "'worker' has a default, and is always given"),
        ("kernel_heartbeat", lambda more=None: None, "no argument 'more'"),
        ("kernel_heartbeat", lambda *, worker: None, "would never be filled"),
        ("kernel_heartbeat", lambda *args: None, r"'\*args' would never be filled"),
        ("kernel_heartbeat", lambda **kwargs: None, r"'\*\*kwargs' would never be filled"),
    ],
)
def test_functions_that_cannot_be_called_are_refused(hook, function, tells):
    extensions = bare()
    with pytest.raises(PluginError, match=tells) as caught:
        extensions.register(plugin(**{hook: function}))
    assert f"{__file__}:{function.__code__.co_firstlineno}" in str(caught.value)
    assert names(extensions) == []
    assert not extensions.has("kernel_task_start")


def test_an_error_names_plugin_and_distribution(installer):
    source = "from kernel.hooks import hookimpl\nclass Plugin:\n    @hookimpl\n    def kernel_oops(self): ...\n"
    point = {"kernel.plugins": {"acme": "acme_plugins:Plugin"}}
    installer.add("acme-plugins", "7", points=point, modules={"acme_plugins": source})
    with pytest.raises(PluginError, match=r"plugin 'acme' of acme-plugins 7 cannot be used: kernel_oops .*\.py:3\)"):
        Extensions({}, builtin={}).load()


@pytest.mark.parametrize("hook", ["kernel_task_start", "kernel_worker_ready"])
@pytest.mark.parametrize("style", ["wrapper", "hookwrapper"])
def test_wrappers_are_refused_where_they_cannot_be_isolated(hook, style):
    (argument,) = spec_arguments(hook)
    module = types.ModuleType("made_up")
    scope = {}
    exec(f"def function({argument}):\n    yield", scope)
    setattr(module, hook, hookimpl(**{style: True})(scope["function"]))
    with pytest.raises(PluginError, match="it is a wrapper, and this hook"):
        bare().register(module)


def test_a_function_that_lacks_the_marker_is_told():
    class Forgot:
        def kernel_task_start(self, request): ...

    with pytest.raises(PluginError, match="it bears the name of a hook and is not marked"):
        bare().register(Forgot())


def test_a_module_may_import_the_specifications():
    module = plugin(kernel_task_start=lambda request: None)
    module.kernel_task_end = hooks.kernel_task_end
    extensions = bare()
    extensions.register(module)
    assert extensions.has("kernel_task_start")
    assert not extensions.has("kernel_task_end")


def test_an_optional_hook_of_another_version_is_passed_over():
    module = types.ModuleType("made_up")
    module.kernel_of_tomorrow = hookimpl(optionalhook=True)(lambda thing: None)
    module.kernel_task_start = hookimpl(lambda request: None)
    extensions = bare()
    extensions.register(module)
    assert extensions.has("kernel_task_start")


def test_a_hook_under_another_function_name():
    class Renamed:
        @hookimpl(specname="kernel_task_start")
        def note(self, request):
            request.append(1)

    extensions, seen = bare({}, Renamed()), []
    extensions.observe(extensions.hot.kernel_task_start, seen)
    assert seen == [1]


def test_properties_of_a_plugin_are_not_evaluated():
    class Lazy:
        @hookimpl
        def kernel_task_start(self, request): ...

        @property
        def connection(self):
            raise AssertionError("evaluated")

    extensions = bare()
    extensions.register(Lazy())
    assert extensions.has("kernel_task_start")
