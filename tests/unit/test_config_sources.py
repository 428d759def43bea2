"""Objects, modules, old names, the environment and pyproject.toml."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path

import pytest

from kernel.config import Settings, SettingsWarning
from kernel.config.names import old_names
from kernel.config.sources import load_object
from kernel.errors import ImproperlyConfigured, InvalidSetting, UnknownSetting


@pytest.fixture
def conf(tmp_path: Path) -> Settings:
    (tmp_path / "pyproject.toml").touch()
    return Settings(directory=tmp_path, environ={})


def with_environment(tmp_path: Path, **environ: str) -> Settings:
    (tmp_path / "pyproject.toml").touch()
    return Settings({"broker_url": "code://"}, directory=tmp_path, environ=environ)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("settings_for_a_test")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def test_a_module_holds_more_than_settings(conf: Settings, module: types.ModuleType) -> None:
    code = (
        "import os\nfrom datetime import timedelta\ntask_serializer = 'yaml'\nDEBUG = True\nhelper = 3\n_task_x = 1\n"
    )
    exec(code, vars(module))
    conf.config_from_object(module.__name__)
    assert conf.task_serializer == "yaml"
    assert conf.origin("task_serializer") == "settings_for_a_test"
    assert conf.changes() == {"task_serializer": "yaml"}


@pytest.mark.parametrize("line", ["task_serialiser = 'x'", "worker_frobnicate = 1", "CELERY_TASK_SERIALISER = 'x'"])
def test_a_misspelled_setting_in_a_module(conf: Settings, module: types.ModuleType, line: str) -> None:
    exec(line, vars(module))
    conf.config_from_object(module)
    with pytest.raises(UnknownSetting, match="settings_for_a_test"):
        conf.validate()


def test_forms_of_objects(conf: Settings, module: types.ModuleType) -> None:
    class Config:
        task_serializer = "yaml"

    module.Config = Config  # type: ignore[attr-defined]
    module.instance = Config()  # type: ignore[attr-defined]
    module.table = {"task_serializer": "yaml"}  # type: ignore[attr-defined]
    name = module.__name__
    for source in (
        Config,
        Config(),
        {"task_serializer": "yaml"},
        f"{name}:Config",
        f"{name}.instance",
        f"{name}:table",
    ):
        conf.config_from_object({})
        conf.task_serializer = "json"
        conf.config_from_object(source, force=True)
        assert conf.task_serializer == "yaml", source


def test_a_second_object_replaces_the_first(conf: Settings) -> None:
    conf.config_from_object({"task_serializer": "yaml", "worker_concurrency": 3})
    conf.config_from_object({"worker_concurrency": 4})
    assert (conf.task_serializer, conf.worker_concurrency) == ("json", 4)


def test_an_object_that_is_refused_leaves_what_was(conf: Settings) -> None:
    conf.config_from_object({"worker_concurrency": 3}, force=True)
    with pytest.raises(InvalidSetting, match="worker_concurrency"):
        conf.config_from_object({"worker_concurrency": "many"})
    assert conf.worker_concurrency == 3


def test_silence(conf: Settings) -> None:
    conf.config_from_object("no_such_module_at_all", silent=True)
    assert conf.task_serializer == "json"
    with pytest.raises(ImproperlyConfigured, match="cannot be imported"):
        conf.config_from_object("no_such_module_at_all")
    with pytest.raises(ImproperlyConfigured, match="does not have"):
        conf.config_from_object("json:nothing")


def test_an_error_inside_the_module_is_not_hidden(
    conf: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_settings_of_a_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    conf.config_from_object("broken_settings_of_a_test", silent=True)
    with pytest.raises(ZeroDivisionError):
        _ = conf.task_serializer


def test_load_object_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_object("os.path") is sys.modules["os.path"]
    assert load_object("os:path.join") is load_object("os.path.join")
    (tmp_path / "needs_more_for_a_test.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        load_object("needs_more_for_a_test")


def test_from_a_variable(tmp_path: Path, module: types.ModuleType) -> None:
    module.task_serializer = "yaml"  # type: ignore[attr-defined]
    conf = with_environment(tmp_path, SETTINGS=module.__name__)
    assert conf.config_from_envvar("SETTINGS") is True
    assert conf.task_serializer == "yaml"
    assert conf.config_from_envvar("ABSENT", silent=True) is False
    with pytest.raises(ImproperlyConfigured, match="ABSENT"):
        conf.config_from_envvar("ABSENT")


@pytest.mark.parametrize("variable", ["KERNEL_CONFIG_MODULE", "CELERY_CONFIG_MODULE"])
def test_a_module_named_by_the_environment(tmp_path: Path, module: types.ModuleType, variable: str) -> None:
    module.task_serializer = "yaml"  # type: ignore[attr-defined]
    module.broker_url = "module://"  # type: ignore[attr-defined]
    conf = with_environment(tmp_path, **{variable: module.__name__})
    assert (conf.task_serializer, conf.broker_url) == ("yaml", "code://")


# --- old names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BROKER_URL", "broker_url"),
        ("BROKER_TRANSPORT_OPTIONS", "broker_transport_options"),
        ("CASSANDRA_COLUMN_FAMILY", "cassandra_table"),
        ("CELERYBEAT_SCHEDULE", "beat_schedule"),
        ("CELERYD_CONCURRENCY", "worker_concurrency"),
        ("CELERYD_MAX_TASKS_PER_CHILD", "worker_max_tasks_per_child"),
        ("CELERYD_TASK_SOFT_TIME_LIMIT", "task_soft_time_limit"),
        ("CELERYD_TASK_TIME_LIMIT", "task_time_limit"),
        ("CELERY_ACCEPT_CONTENT", "accept_content"),
        ("CELERY_ACKS_LATE", "task_acks_late"),
        ("CELERY_ALWAYS_EAGER", "task_always_eager"),
        ("CELERY_DEFAULT_QUEUE", "task_default_queue"),
        ("CELERY_EAGER_PROPAGATES_EXCEPTIONS", "task_eager_propagates"),
        ("CELERY_EVENT_QUEUE_TTL", "event_queue_ttl"),
        ("CELERY_IMPORTS", "imports"),
        ("CELERY_MESSAGE_COMPRESSION", "task_compression"),
        ("CELERY_REDIS_HOST", "redis_host"),
        ("CELERY_RESULT_BACKEND", "result_backend"),
        ("CELERY_RESULT_DBURI", "database_url"),
        ("CELERY_RESULT_SERIALIZER", "result_serializer"),
        ("CELERY_ROUTES", "task_routes"),
        ("CELERY_SEND_EVENTS", "worker_send_task_events"),
        ("CELERY_TASK_PUBLISH_RETRY", "task_publish_retry"),
        ("CELERY_TASK_RESULT_EXPIRES", "result_expires"),
        ("CELERY_TASK_SERIALIZER", "task_serializer"),
        ("CELERY_TIMEZONE", "timezone"),
        ("CELERY_TRACK_STARTED", "task_track_started"),
        ("CELERY_WORKER_DIRECT", "worker_direct"),
        ("S3_BUCKET", "s3_bucket"),
    ],
)
def test_old_names(old: str, new: str) -> None:
    assert old_names()[old] == new


def test_every_old_name_leads_to_a_setting(conf: Settings) -> None:
    for old, new in old_names().items():
        assert conf.setting(old).name == new
        assert old.isupper()


def test_old_names_are_accepted_and_told_once(conf: Settings) -> None:
    with pytest.warns(SettingsWarning, match="CELERYD_CONCURRENCY is an old name.*worker_concurrency") as told:
        conf.config_from_object({"CELERYD_CONCURRENCY": 3}, force=True)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf.config_from_object({"CELERYD_CONCURRENCY": 4})
        conf.CELERYD_CONCURRENCY = 5
    assert conf.worker_concurrency == conf.CELERYD_CONCURRENCY == conf["CELERYD_CONCURRENCY"] == 5
    assert conf.maybe_warn_deprecated_settings() is True


def test_a_mixture_of_old_and_new_names_is_refused(conf: Settings) -> None:
    conf.config_from_object({"CELERY_ALWAYS_EAGER": True, "task_serializer": "json"})
    with pytest.raises(ImproperlyConfigured, match="CELERY_ALWAYS_EAGER -> task_always_eager"):
        _ = conf.task_serializer
    both = {"CELERY_TASK_SERIALIZER": "yaml", "task_serializer": "json"}
    conf.config_from_object(both)
    assert conf.task_serializer == "json"


def test_a_namespace(conf: Settings) -> None:
    class Django:
        DEBUG = True
        BROKER_URL = "not://ours"
        CELERY_BROKER_URL = "memory://"
        CELERY_TASK_ALWAYS_EAGER = True
        CELERY_ACKS_LATE = False
        CELERY_EMAIL_CHUNK_SIZE = 3
        CELERYD_CONCURRENCY = 8

    with pytest.warns(SettingsWarning, match="CELERY_ACKS_LATE"):
        conf.config_from_object(Django, namespace="CELERY", force=True)
    assert conf.changes() == {"broker_url": "memory://", "task_always_eager": True, "task_acks_late": False}
    assert "CELERY_BROKER_URL" in conf.origin("broker_url")


def test_a_misspelled_name_in_a_namespace(conf: Settings) -> None:
    conf.config_from_object({"CELERY_TASK_SERIALISER": "x"}, namespace="CELERY")
    with pytest.raises(UnknownSetting, match="task_serializer"):
        conf.validate()


# --- the environment ------------------------------------------------------------------------------------------


def test_typed_variables(tmp_path: Path) -> None:
    conf = with_environment(
        tmp_path,
        KERNEL_BROKER_URL="memory://",
        KERNEL_ACCEPT_CONTENT="json, yaml",
        KERNEL_TASK_ACKS_LATE="no",
        KERNEL_MAX_BODY="1MB",
        KERNEL_RESULT_EXPIRES="none",
        KERNEL_TASK_PUBLISH_RETRY_POLICY='{"max_retries": 1}',
        KERNEL_WORKER_REDIRECT_STDOUTS_LEVEL="info",
        KERNEL_WORKER_CONCURRENCY="auto",
        KERNEL_WORKER_PREFETCH_MULTIPLIER="",
        KERNEL_WORKER_POOL_START_METHOD="spawn",
    )
    assert conf.broker_url == "memory://"
    assert conf.accept_content == ("json", "yaml")
    assert conf.task_acks_late is False
    assert conf.max_body == 1024 * 1024
    assert conf.result_expires is None
    assert conf.task_publish_retry_policy == {"max_retries": 1}
    assert conf.worker_redirect_stdouts_level == "INFO"
    assert conf.worker_concurrency == "auto"
    assert conf.worker_prefetch_multiplier is None
    assert conf.worker_start_method == "spawn"


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("KERNEL_TASK_ACKS_LATE", "perhaps", "True or False"),
        ("KERNEL_WORKER_PROCESSES", "two", "a whole number"),
        ("KERNEL_WORKER_LEASE", "0.5", "at least 1"),
        ("KERNEL_WORKER_LEASE", "inf", "ends"),
        ("KERNEL_MAX_BODY", "big", "16MB"),
        ("KERNEL_DRIVERS", "{", "not JSON"),
        ("KERNEL_WORKER_START_METHOD", "forkserver", "'fork', 'spawn'"),
    ],
)
def test_a_variable_that_cannot_be_read(tmp_path: Path, variable: str, text: str, words: str) -> None:
    conf = with_environment(tmp_path, **{variable: text})
    with pytest.raises(InvalidSetting, match=words) as caught:
        _ = conf.task_serializer
    assert variable in str(caught.value)
    assert text in str(caught.value)


def test_secrets_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("amqp://me:hush@host//\n")
    assert with_environment(tmp_path, KERNEL_BROKER_URL_FILE=str(secret)).broker_url == "amqp://me:hush@host//"
    with pytest.raises(InvalidSetting, match="both set"):
        _ = with_environment(tmp_path, KERNEL_BROKER_URL_FILE=str(secret), KERNEL_BROKER_URL="x").broker_url
    with pytest.raises(InvalidSetting, match=r"KERNEL_BROKER_URL_FILE.*cannot be read"):
        _ = with_environment(tmp_path, KERNEL_BROKER_URL_FILE=str(tmp_path / "absent")).broker_url


def test_variables_of_celery(tmp_path: Path) -> None:
    conf = with_environment(
        tmp_path, CELERY_BROKER_URL="a://", CELERY_RESULT_BACKEND="b://", CELERY_TASK_TRACK_STARTED="1"
    )
    assert (conf.broker_url, conf.result_backend, conf.task_track_started) == ("a://", "b://", False)
    assert with_environment(tmp_path, CELERY_BROKER_URL="a://", KERNEL_BROKER_URL="k://").broker_url == "k://"


def test_variables_of_other_software_are_left_alone(tmp_path: Path) -> None:
    conf = with_environment(
        tmp_path,
        KERNEL_ID="a1",
        KERNEL_USERNAME="me",
        KERNEL_API_KEY="x",
        KERNEL_APP="proj",
        KERNEL_WORKER_LOGLEVEL="INFO",
        KERNEL_WORKER_QUEUES="a,b",
        KERNEL_LAUNCH_TIMEOUT="40",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert conf.changes() == {"broker_url": "code://"}


def test_a_variable_that_is_nearly_a_setting_is_told(tmp_path: Path) -> None:
    conf = with_environment(tmp_path, KERNEL_WORKER_CONCURENCY="4")
    with pytest.warns(SettingsWarning, match="KERNEL_WORKER_CONCURENCY.*KERNEL_WORKER_CONCURRENCY"):
        assert conf.worker_concurrency is None


# --- pyproject.toml -------------------------------------------------------------------------------------------


def test_a_bad_project_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.kernel\n")
    with pytest.raises(ImproperlyConfigured, match=r"pyproject.toml cannot be read"):
        _ = Settings(directory=tmp_path, environ={}).task_serializer
    (tmp_path / "pyproject.toml").write_text("[tool]\nkernel = 3\n")
    with pytest.raises(ImproperlyConfigured, match="no table"):
        _ = Settings(directory=tmp_path, environ={}).task_serializer


def test_a_bad_value_in_a_project_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kernel]\nworker_lease = "soon"\n')
    with pytest.raises(InvalidSetting, match=r"worker_lease.*'soon'.*\[tool.kernel\] in .*pyproject.toml"):
        _ = Settings(directory=tmp_path, environ={}).task_serializer
    (tmp_path / "pyproject.toml").write_text("[tool.kernel]\nnonsense = 1\n")
    with pytest.raises(UnknownSetting, match=r"nonsense.*pyproject.toml"):
        Settings(directory=tmp_path, environ={}).validate()
