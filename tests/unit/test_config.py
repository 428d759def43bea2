"""`app.conf`: reading, writing, who wins, and what is refused."""

from __future__ import annotations

import threading
import warnings
from datetime import timedelta
from pathlib import Path

import pytest

from kernel.config import Settings, SettingsWarning
from kernel.errors import ImproperlyConfigured, InvalidSetting, UnknownSetting
from kernel.interfaces.setting import Setting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a pyproject.toml that says nothing, so that none above it is found."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    return tmp_path


@pytest.fixture
def conf(folder: Path) -> Settings:
    return Settings(directory=folder, environ={})


def test_defaults_are_read_as_attributes_and_items(conf: Settings) -> None:
    assert conf.task_default_queue == conf["task_default_queue"] == conf.get("task_default_queue") == "celery"
    assert conf.task_acks_late is True
    assert conf.accept_content == ("json",)
    assert conf.worker_prefetch_multiplier is None
    assert conf.max_body == 16 * 1024 * 1024
    assert "task_serializer" in conf
    assert "nonsense" not in conf
    assert 3 not in conf
    assert conf.get("nonsense", 7) == 7
    assert set(conf) >= {"broker_url", "beat_schedule"}
    assert len(conf) == len(list(conf))


def test_reading_what_does_not_exist_names_the_nearest(conf: Settings) -> None:
    with pytest.raises(AttributeError, match="task_serializer"):
        _ = conf.task_serialiser
    with pytest.raises(KeyError):
        _ = conf["nonsense"]
    with pytest.raises(AttributeError):
        _ = conf._private


def test_a_value_is_one_dictionary_entry(conf: Settings) -> None:
    assert conf.task_serializer == "json"
    assert conf.__dict__["task_serializer"] == "json"
    conf.task_serializer = "yaml"
    assert conf.__dict__["task_serializer"] == "yaml"


def test_writing(conf: Settings) -> None:
    conf.task_time_limit = 30
    conf["task_soft_time_limit"] = "1m"
    conf.update({"worker_concurrency": 4}, task_track_started=True)
    conf.update([("result_expires", timedelta(hours=1))])
    assert (conf.task_time_limit, conf.task_soft_time_limit, conf.worker_concurrency) == (30, 60, 4)
    assert conf.task_track_started is True
    assert conf.result_expires == 3600
    assert conf.origin("task_time_limit") == "app.conf.task_time_limit"
    assert conf.origin("worker_concurrency") == "app.conf.update"
    assert conf.origin("task_serializer") == "default"


def test_deleting_brings_back_what_was_before(conf: Settings) -> None:
    conf.worker_concurrency = 3
    del conf.worker_concurrency
    assert conf.worker_concurrency is None
    with pytest.raises(AttributeError, match="not set by code"):
        del conf.worker_concurrency


def test_setdefault(conf: Settings) -> None:
    assert conf.setdefault("worker_concurrency", 3) == 3
    assert conf.setdefault("worker_concurrency", 5) == 3


def test_an_update_that_is_refused_changes_nothing(conf: Settings) -> None:
    with pytest.raises(InvalidSetting):
        conf.update(task_serializer="yaml", worker_lease="soon")
    assert conf.task_serializer == "json"


@pytest.mark.parametrize("name", ["task_serialiser", "brokerurl", "worker_concurency", "CELERYD_CONCURENCY"])
def test_a_misspelled_name_is_refused_at_once(conf: Settings, name: str) -> None:
    with pytest.raises(UnknownSetting, match="Did you mean"):
        conf[name] = 1
    with pytest.raises(UnknownSetting, match=name):
        Settings({name: 1}, environ={})


def test_a_strange_name_is_refused_when_the_settings_are_checked(conf: Settings) -> None:
    conf.nonsense = 1
    with pytest.raises(UnknownSetting, match="'nonsense'"):
        conf.validate()


def test_a_strange_name_is_refused_at_once_when_plugins_can_be_asked(folder: Path) -> None:
    asked = []
    conf = Settings(directory=folder, environ={}, discover=lambda: asked.append(1))
    assert conf.task_serializer == "json"
    assert asked == []
    with pytest.raises(UnknownSetting, match="nonsense"):
        conf.nonsense = 1
    assert asked == [1]
    assert "nonsense" not in conf


def test_nobody_is_asked_while_the_settings_are_made(folder: Path) -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)

    with pytest.raises(UnknownSetting, match="task_serializer"):
        Settings({"task_serialiser": "x"}, directory=folder, environ={}, discover=ask)
    conf = Settings({"task_serials": 1, "nonsense": 1}, directory=folder, environ={}, discover=ask)
    assert asked == []
    with pytest.raises(UnknownSetting):
        _ = conf.task_serializer
    assert asked == [1]


def test_a_plugin_that_is_asked_declares_the_name(folder: Path) -> None:
    conf = Settings(
        {"moon_phase": "5m"},
        directory=folder,
        environ={},
        discover=lambda: conf.declare([Setting("moon_phase", "seconds", 1, "Phase.")], "kernel-moon"),
    )
    assert conf.moon_phase == 300
    assert conf.declared_by("moon_phase") == "kernel-moon"


def test_an_unknown_name_in_a_source_fails_every_read(folder: Path) -> None:
    conf = Settings(directory=folder, environ={}, discover=lambda: None)
    conf.config_from_object({"moon_phase": 1})
    for _ in range(2):
        with pytest.raises(UnknownSetting, match="moon_phase"):
            _ = conf.task_serializer


def test_declared_settings(conf: Settings) -> None:
    conf.update(moon_phase="5m")
    conf.declare([Setting("moon_phase", "seconds", 1, "Phase."), Setting("moon_name", "str", "Luna", "Name.")], "moon")
    assert conf.moon_phase == 300
    assert conf.moon_name == "Luna"
    assert conf.origin("moon_name") == "default of moon"
    conf.declare([Setting("moon_name", "str", "Luna", "Another text.")], "another moon")
    with pytest.raises(ImproperlyConfigured, match=r"moon_name.*moon"):
        conf.declare([Setting("moon_name", "int", 3, "A number.")], "sun")
    with pytest.raises(ImproperlyConfigured, match="method"):
        conf.declare([Setting("update", "int", 3, "A number.")], "sun")
    with pytest.raises(ImproperlyConfigured, match="lower-case"):
        conf.declare([Setting("Moon", "int", 3, "A number.")], "sun")


def test_what_was_set_before_is_checked_when_it_is_declared(conf: Settings) -> None:
    conf.update(moon_phase="soon")
    with pytest.raises(InvalidSetting, match=r"moon_phase.*'soon'.*app.conf.update"):
        conf.declare([Setting("moon_phase", "seconds", 1, "Phase.")], "moon")


def test_a_driver_may_serve_a_name_that_was_only_known(conf: Settings) -> None:
    conf.declare([Setting("broker_pool_limit", "int", 10, "Most connections.", True)], "kernel-broker-moon")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf.broker_pool_limit = 3
    assert conf.broker_pool_limit == 3


def test_declared_settings_are_looked_for_in_the_environment(folder: Path) -> None:
    conf = Settings(directory=folder, environ={"KERNEL_MOON_PHASE": "2h"})
    assert conf.task_serializer == "json"
    conf.declare([Setting("moon_phase", "seconds", 1, "Phase.")], "moon")
    assert conf.moon_phase == 7200


def test_values_of_a_driver(conf: Settings) -> None:
    declared = (Setting("moon_phase", "seconds", 1, "Phase."),)
    conf.declare(declared, "moon")
    conf.moon_phase = 5
    assert conf.driver_values(declared) == {"moon_phase": 5}


def test_the_strongest_source_wins(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(
        '[tool.kernel]\napp = "x"\nworker-lease = 11\nworker_concurrency = 1\n'
        'task_serializer = "a"\nresult_serializer = "p"\n'
    )
    environ = {"KERNEL_WORKER_CONCURRENCY": "4", "KERNEL_TASK_TIME_LIMIT": "5m"}
    conf = Settings(
        {"task_serializer": "b", "worker_concurrency": 2}, directory=folder / "deep" / "er", environ=environ
    )
    conf.add_defaults({"result_serializer": "d", "task_default_queue": "given"})
    conf.config_from_object({"task_serializer": "c", "worker_concurrency": 3, "task_time_limit": 1})
    assert conf.task_default_queue == "given"
    assert conf.result_serializer == "p"
    assert conf.worker_lease == 11
    assert conf.task_serializer == "c"
    assert conf.worker_concurrency == 4
    conf.task_serializer = "d"
    conf.override({"task_time_limit": "7s"})
    assert conf.task_serializer == "d"
    assert conf.task_time_limit == 7
    assert "pyproject.toml" in conf.origin("worker_lease")
    assert conf.origin("worker_concurrency") == "environment variable KERNEL_WORKER_CONCURRENCY"
    assert conf.origin("task_time_limit") == "the command line"
    assert "app" not in conf


def test_nothing_is_read_before_it_is_needed(folder: Path) -> None:
    environ: dict[str, str] = {}
    conf = Settings(directory=folder, environ=environ)
    conf.config_from_object("no_such_module_at_all")
    conf.add_defaults(lambda: {"task_default_queue": "late"})
    environ["KERNEL_WORKER_CONCURRENCY"] = "9"
    assert not conf.resolved
    with pytest.raises(ImproperlyConfigured, match="no_such_module_at_all"):
        _ = conf.worker_concurrency
    conf.config_from_object({})
    assert conf.worker_concurrency == 9
    assert conf.task_default_queue == "late"


def test_the_lease_under_celerys_name(conf: Settings) -> None:
    conf.broker_transport_options = {"visibility_timeout": 3600}
    assert conf.worker_lease == 3600
    assert "visibility_timeout" in conf.origin("worker_lease")
    conf.worker_lease = 20
    assert conf.worker_lease == 20


def test_a_second_name(conf: Settings) -> None:
    conf.worker_pool_start_method = "spawn"
    assert conf.worker_start_method == conf.worker_pool_start_method == "spawn"


def test_two_settings_share_nothing(folder: Path) -> None:
    one, other = Settings(directory=folder, environ={}), Settings(directory=folder, environ={})
    one.broker_transport_options["x"] = 1
    one.declare([Setting("moon_name", "str", "Luna", "Name.")], "moon")
    one.task_serializer = "yaml"
    assert one.broker_transport_options == {"x": 1}
    assert other.broker_transport_options == {}
    assert "moon_name" not in other


def test_what_is_set_but_not_served_is_kept_and_told_once(conf: Settings) -> None:
    with pytest.warns(SettingsWarning, match="worker_disable_prefetch is kept but has no effect") as told:
        conf.worker_disable_prefetch = True
    assert len(told) == 1
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf.worker_disable_prefetch = True
    assert conf.worker_disable_prefetch is True


def test_drivers_settings_are_fixed_while_the_app_is_open(conf: Settings) -> None:
    conf.broker_url = "sqlite:///x"
    conf.freeze()
    with pytest.raises(ImproperlyConfigured, match=r"broker_url.*app.close"):
        conf.broker_url = "sqlite:///y"
    with pytest.raises(ImproperlyConfigured, match="broker_url"):
        del conf.broker_url
    with pytest.raises(ImproperlyConfigured, match="result_backend"):
        conf.config_from_object({"result_backend": "memory://"})
    conf.broker_url = "sqlite:///x"
    conf.task_always_eager = True
    assert conf.broker_url == "sqlite:///x"
    assert conf.task_always_eager is True
    conf.thaw()
    conf.broker_url = "sqlite:///y"
    assert conf.broker_url == "sqlite:///y"


def test_tables_hide_secrets(conf: Settings) -> None:
    conf.broker_url = "amqp://me:hush@host//"
    conf.database_table_names = {"task": "t"}
    conf.redis_password = "hush"
    assert conf.changes()["redis_password"] == "hush"
    assert conf.without_defaults() == conf.table(censored=False) == conf.changes()
    text = conf.humanize()
    assert "hush" not in text
    assert "broker_url: amqp://me:********@host//" in text
    assert set(conf.table(with_defaults=True)) == set(conf)
    assert "hush" not in repr(conf)
    assert conf.export()["broker_url"] == "amqp://me:hush@host//"


def test_options_by_parts_and_namespace(conf: Settings) -> None:
    assert conf.find_value_for_key("concurrency", "worker") is None
    assert conf.find_option("ALWAYS_EAGER").name == "task_always_eager"
    assert conf.get_by_parts("task", "default", "queue") == "celery"
    with pytest.raises(KeyError):
        conf.find_option("nonsense")


def test_arguments_of_the_form_key_value(conf: Settings) -> None:
    conf.config_from_cmdline(["worker.concurrency=4", ".lease=1m", "task_track_started=(bool)true"], namespace="worker")
    assert (conf.worker_concurrency, conf.worker_lease, conf.task_track_started) == (4, 60, True)
    conf.config_from_cmdline(['imports=(json)["a", "b"]'])
    assert conf.imports == ("a", "b")
    with pytest.raises(ImproperlyConfigured, match="name=value"):
        conf.config_from_cmdline(["worker.concurrency"])
    with pytest.raises(ImproperlyConfigured, match="no int"):
        conf.config_from_cmdline(["worker.concurrency=(int)x"])


def test_many_threads_read_first(folder: Path) -> None:
    conf = Settings({"worker_concurrency": 3}, directory=folder, environ={})
    seen: list[object] = []
    barrier = threading.Barrier(8)

    def read() -> None:
        barrier.wait(10)
        seen.append(conf.worker_concurrency)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [3] * 8
