"""Hook plugins: found, examined, switched, bound and called."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
import types

import pytest

from kernel import hooks
from kernel.errors import KernelError, PluginError, SoftTimeLimitExceeded
from kernel.extensions import Extensions
from kernel.extensions.check import spec_arguments
from kernel.extensions.hot import Bound, HotHooks
from kernel.hooks import SPECS, Route, hookimpl
from kernel.interfaces.outcome import Run, Skip

GROUP = "kernel.plugins"
HOT = {name for name, spec in SPECS.items() if spec.hot}


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


class Watcher:
    def __init__(self):
        self.seen = []

    @hookimpl
    def kernel_task_start(self, request):
        self.seen.append(request)


# --- binding --------------------------------------------------------------------------------------------------


def test_there_is_a_slot_for_each_hot_hook():
    assert set(HotHooks.__slots__) == HOT == set(HotHooks.__annotations__)


def test_an_idle_hook_is_none():
    hot = bare().bind()
    assert [name for name in HOT if getattr(hot, name) is not None] == []


def test_a_bound_hook_is_a_plain_tuple_of_names_and_functions():
    watcher = Watcher()
    bound = bare({}, watcher).bind().kernel_task_start
    assert isinstance(bound, tuple)
    assert bound.hook == "kernel_task_start"
    ((name, function),) = bound
    assert name.endswith("Watcher")
    # The function itself, and nothing between: its call costs what a call costs.
    assert function == watcher.kernel_task_start
    assert isinstance(function, types.MethodType)


def test_pluggys_order_is_kept():
    def made(mark, **options):
        module = types.ModuleType(mark)
        module.kernel_task_start = hookimpl(**options)(lambda request: request.append(mark))
        return module

    extensions = bare({}, made("a"), made("last", trylast=True), made("first", tryfirst=True), made("b"))
    bound, slow = [], []
    extensions.observe(extensions.hot.kernel_task_start, bound)
    extensions.hook.kernel_task_start(request=slow)
    assert bound == slow == ["first", "b", "a", "last"]


def test_binding_follows_registrations_on_the_same_object():
    extensions = bare()
    hot = extensions.bind()
    name = extensions.register(Watcher())
    assert extensions.bind() is hot
    assert len(hot.kernel_task_start) == 1
    extensions.unregister(name)
    assert hot.kernel_task_start is None
    with pytest.raises(PluginError, match="there is no plugin"):
        extensions.unregister(name)


def test_a_taken_name_changes_nothing():
    extensions = bare()
    extensions.register(Watcher(), name="mine")
    with pytest.raises(PluginError, match="registered already"):
        extensions.register(Watcher(), name="mine")
    assert len(extensions.hot.kernel_task_start) == 1


# --- calls ----------------------------------------------------------------------------------------------------


def test_an_observer_that_fails_stops_nobody(caplog):
    watcher = Watcher()
    bad = types.SimpleNamespace(kernel_task_start=hookimpl(lambda request: 1 / 0))
    extensions = bare({}, watcher)
    extensions.register(bad, name="bad")
    with caplog.at_level(logging.ERROR, "kernel.extensions"):
        for number in range(5):
            extensions.observe(extensions.hot.kernel_task_start, number)
    assert watcher.seen == [0, 1, 2, 3, 4]
    assert extensions.error_counts == {("bad", "kernel_task_start"): 5}
    # One record in half a minute: a plugin that fails for every task must not fill the disk.
    (record,) = caplog.records
    assert "plugin 'bad' failed in kernel_task_start: ZeroDivisionError" in record.getMessage()
    assert record.exc_info is not None


def test_a_cold_observer_that_fails_stops_nobody(caplog):
    seen = []
    good = plugin(kernel_worker_ready=lambda worker: seen.append(worker))
    bad = plugin(kernel_worker_ready=lambda worker: 1 / 0)
    extensions = bare({}, good)
    extensions.register(bad, name="bad")
    extensions.call_observe("kernel_worker_ready", worker="w")
    assert seen == ["w"]
    assert extensions.error_counts == {("bad", "kernel_worker_ready"): 1}


def test_the_end_of_a_tasks_time_is_not_swallowed():
    def late(request):
        raise SoftTimeLimitExceeded

    extensions = bare({}, plugin(kernel_task_start=late))
    with pytest.raises(SoftTimeLimitExceeded):
        extensions.observe(extensions.hot.kernel_task_start, None)
    assert extensions.error_counts == {}
    assert extensions.running is None


def test_the_first_decision_wins_and_none_is_no_opinion():
    asked = []

    def silent(delivery):
        asked.append("silent")

    extensions = bare({}, plugin(kernel_task_admit=lambda delivery: Skip("no")))
    extensions.register(plugin(kernel_task_admit=silent), name="silent")
    bound = extensions.hot.kernel_task_admit
    assert extensions.first("kernel_task_admit", bound, None) == Skip("no")
    assert asked == ["silent"]
    extensions.register(plugin(kernel_task_admit=lambda delivery: Run()), name="later")
    assert extensions.first("kernel_task_admit", extensions.hot.kernel_task_admit, None) == Run()
    assert asked == ["silent"]
    assert extensions.decide("kernel_task_admit", delivery=None) == Run()
    assert extensions.first("kernel_task_admit", None, 1) is None


@pytest.mark.parametrize("answer", [False, True, 0, "skip"])
def test_a_decision_that_nobody_understands_is_an_error(answer):
    extensions = bare()
    extensions.register(plugin(kernel_task_admit=lambda delivery: answer), name="odd")
    for call in (
        lambda: extensions.first("kernel_task_admit", extensions.hot.kernel_task_admit, None),
        lambda: extensions.decide("kernel_task_admit", delivery=None),
    ):
        with pytest.raises(PluginError, match=f"plugin 'odd' answered {answer!r} in kernel_task_admit; right are Run"):
            call()


def test_an_error_of_a_decision_propagates_with_a_note():
    extensions = bare()
    extensions.register(plugin(kernel_task_admit=lambda delivery: 1 / 0), name="bad")
    for call in (
        lambda: extensions.first("kernel_task_admit", extensions.hot.kernel_task_admit, None),
        lambda: extensions.decide("kernel_task_admit", delivery=None),
    ):
        with pytest.raises(ZeroDivisionError) as caught:
            call()
        assert caught.value.__notes__ == ["raised by the plugin 'bad' in kernel_task_admit"]
    assert extensions.running is None


def test_a_hook_may_take_fewer_arguments_where_it_is_not_hot():
    extensions = bare({}, plugin(kernel_route=lambda name: Route(queue=name)))
    assert extensions.decide("kernel_route", name="a", options={}) == Route(queue="a")
    assert bare().decide("kernel_route", name="a", options={}) is None


def test_collect_gathers_what_is_not_none():
    one = plugin(kernel_task_options=lambda app: {"one": 1})
    none = plugin(kernel_task_options=lambda app: None)
    extensions = bare()
    extensions.register(one, name="one")
    extensions.register(none, name="none")
    extensions.register(plugin(kernel_task_options=lambda: {"two": 2}), name="two")
    assert extensions.collect("kernel_task_options", app=None) == [{"two": 2}, {"one": 1}]
    assert extensions.collect_from("kernel_task_options", app=None)[0] == ("two", {"two": 2})


def test_set_up_stops_at_the_first_error_and_says_whose_it_is():
    extensions = bare()
    extensions.register(plugin(kernel_worker_start=lambda worker: 1 / 0), name="bad")
    with pytest.raises(PluginError, match="plugin 'bad' failed in kernel_worker_start: ZeroDivisionError") as caught:
        extensions.setup("kernel_worker_start", worker=None)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_of_ours_stays_itself():
    def refuses(worker):
        raise KernelError("my words")

    extensions = bare({}, plugin(kernel_worker_start=refuses))
    with pytest.raises(KernelError, match="my words") as caught:
        extensions.setup("kernel_worker_start", worker=None)
    assert "raised by the plugin" in caught.value.__notes__[0]


def test_a_wrapper_around_a_set_up_hook():
    order = []

    def wraps(worker):
        order.append("before")
        yield
        order.append("after")

    module = types.ModuleType("wrapping")
    module.kernel_worker_start = hookimpl(wrapper=True)(wraps)
    extensions = bare({}, plugin(kernel_worker_start=lambda worker: order.append("inside")), module)
    extensions.setup("kernel_worker_start", worker=None)
    assert order == ["before", "inside", "after"]


def test_what_is_historic_is_told_to_latecomers():
    told = []

    def configure(app):
        told.append(("configure", app))

    def registered(app, task):
        told.append((app, task))

    extensions = bare()
    extensions.setup("kernel_configure", app="app")
    extensions.setup("kernel_task_registered", app="app", task="one")
    extensions.register(plugin(kernel_configure=configure, kernel_task_registered=registered), name="late")
    assert told == [("configure", "app"), ("app", "one")]
    extensions.setup("kernel_task_registered", app="app", task="two")
    assert told[2:] == [("app", "two")]


def test_a_latecomer_that_fails_is_not_kept():
    extensions = bare()
    extensions.setup("kernel_configure", app="app")
    with pytest.raises(PluginError, match="plugin 'late' failed in kernel_configure"):
        extensions.register(plugin(kernel_configure=lambda app: 1 / 0), name="late")
    assert names(extensions) == []


def test_the_end_runs_all_in_reverse_order_and_gathers_errors():
    ended = []

    def bad(app):
        ended.append("bad")
        raise OSError("gone")

    extensions = bare({}, plugin(kernel_unconfigure=lambda app: ended.append("first")))
    extensions.register(plugin(kernel_unconfigure=bad), name="bad")
    extensions.register(plugin(kernel_unconfigure=lambda app: ended.append("last")), name="last")
    with pytest.raises(PluginError, match="plugin 'bad' failed in kernel_unconfigure: OSError: gone"):
        extensions.setup("kernel_unconfigure", app=None)
    assert ended == ["first", "bad", "last"]


def test_a_hook_that_does_not_exist_is_a_bug_of_ours():
    with pytest.raises(ValueError, match="'kernel_nothing' is no hook"):
        bare().collect("kernel_nothing")


# --- who is at work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["first", "observe", "setup", "decide", "collect", "call_observe"])
def test_a_plugin_that_blocks_is_named(how):
    entered, leave = threading.Event(), threading.Event()

    def block(*_, **__):
        entered.set()
        assert leave.wait(20)

    hook = {
        "first": "kernel_task_admit",
        "observe": "kernel_task_start",
        "setup": "kernel_worker_start",
        "decide": "kernel_message_invalid",
        "collect": "kernel_doctor",
        "call_observe": "kernel_heartbeat",
    }[how]
    arguments = dict.fromkeys(spec_arguments(hook))
    scope = {"block": block}
    exec(f"def function({', '.join(arguments)}): block()", scope)
    extensions = bare()
    extensions.register(plugin(**{hook: scope["function"]}), name="sleepy")
    assert extensions.running is None
    calls = {
        "first": lambda: extensions.first(hook, extensions.hot.kernel_task_admit, None),
        "observe": lambda: extensions.observe(extensions.hot.kernel_task_start, None),
    }
    call = calls.get(how) or (lambda: getattr(extensions, how)(hook, **arguments))
    before = time.monotonic()
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    assert entered.wait(20)
    name, running, since = extensions.running
    assert (name, running) == ("sleepy", hook)
    assert before <= since <= time.monotonic()
    leave.set()
    thread.join(20)
    assert extensions.running is None


def test_a_hook_within_a_hook_leaves_the_outer_one_noted():
    inner = plugin(kernel_worker_ready=lambda worker: None)
    noted = []

    def outer(worker):
        extensions.call_observe("kernel_worker_ready", worker=worker)
        noted.append(extensions.running)

    extensions = bare({}, inner)
    extensions.register(plugin(kernel_worker_start=outer), name="outer")
    extensions.setup("kernel_worker_start", worker=None)
    assert noted[0][:2] == ("outer", "kernel_worker_start")


# --- apps and threads -----------------------------------------------------------------------------------------


def test_many_threads_load_once():
    made = []

    class Counted(Watcher):
        def __init__(self):
            super().__init__()
            made.append(self)

    extensions = bare({}, Counted)
    threads = [threading.Thread(target=extensions.bind) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(made) == 1
    assert len(extensions.hot.kernel_task_start) == 1


def test_settings_that_ask_plugins_while_they_are_read():
    """An app's settings let plugins declare theirs, in the middle of being read for the list of plugins."""

    class Settings(dict):
        asked = 0

        def __getitem__(self, name):
            if not Settings.asked:
                Settings.asked = 1
                extensions.collect("kernel_settings")
            return super().__getitem__(name)

    extensions = bare(Settings(plugins=[Watcher]))
    assert len(extensions.hot.kernel_task_start) == 1


def test_a_hook_with_nobody_costs_no_call():
    # The promise is a time (under 0.1 µs); what makes it true is that nothing is called at all.
    script = (
        "from kernel.extensions import Extensions\n"
        "hot = Extensions({}, builtin={}, autoload=False).bind()\n"
        "import dis, sys\n"
        "calls = []\n"
        "sys.setprofile(lambda frame, event, arg: calls.append(event))\n"
        "if hot.kernel_task_end: raise SystemExit(1)\n"
        "sys.setprofile(None)\n"
        "assert calls in ([], ['c_call']), calls\n"  # the second is setprofile itself
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert Bound.of("kernel_task_end", []) is None


def test_specs_and_their_table_agree():
    marked = {name for name in vars(hooks) if name.startswith("kernel_")}
    assert marked == set(SPECS)
    for name, spec in SPECS.items():
        text = getattr(hooks, name).__doc__
        assert text.startswith(f"{spec.kind}, "), name
        assert ("hot" in text.split(":")[0]) == spec.hot, name
        first_result = getattr(hooks, name).kernel_spec["firstresult"]
        assert first_result == (spec.kind == "decide"), name
