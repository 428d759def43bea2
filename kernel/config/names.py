"""Other names of settings: the upper-case ones of Celery 3 and 4, and second names of today.

The old names are data about Celery (its manual, "New lowercase settings"); most follow from a prefix, so only the
exceptions are listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

ALIASES: Final[Mapping[str, str]] = {"worker_pool_start_method": "worker_start_method"}
"""Celery's name of something that has another name here; both may be used."""

_EXCEPTIONS: Final[Mapping[str, str]] = {
    "CASSANDRA_COLUMN_FAMILY": "cassandra_table",
    "CELERYD_ETA_SCHEDULER": "worker_timer",
    "CELERYD_ETA_SCHEDULER_PRECISION": "worker_timer_precision",
    "CELERYD_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit",
    "CELERYD_TIME_LIMIT": "task_time_limit",
    "CELERYD_WORKER_LOST_WAIT": "worker_lost_wait",
    "CELERY_AMQP_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_DB_REUSE_MAX": "db_reuse_max",
    "CELERY_DISABLE_RATE_LIMITS": "worker_disable_rate_limits",
    "CELERY_EAGER_PROPAGATES_EXCEPTIONS": "task_eager_propagates",
    "CELERY_ENABLE_REMOTE_CONTROL": "worker_enable_remote_control",
    "CELERY_MAX_CACHED_RESULTS": "result_cache_max",
    "CELERY_MESSAGE_COMPRESSION": "task_compression",
    "CELERY_REDIRECT_STDOUTS": "worker_redirect_stdouts",
    "CELERY_REDIRECT_STDOUTS_LEVEL": "worker_redirect_stdouts_level",
    "CELERY_RESULT_DBURI": "database_url",
    "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS": "database_short_lived_sessions",
    "CELERY_RESULT_DB_TABLENAMES": "database_table_names",
    "CELERY_RESULT_DB_TABLE_NAMES": "database_table_names",
    "CELERY_RESULT_ENGINE_OPTIONS": "database_engine_options",
    "CELERY_SEND_EVENTS": "worker_send_task_events",
    "CELERY_SEND_TASK_SENT_EVENT": "task_send_sent_event",
    "CELERY_TASK_PUBLISH_RETRY": "task_publish_retry",
    "CELERY_TASK_PUBLISH_RETRY_POLICY": "task_publish_retry_policy",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_WORKER_DIRECT": "worker_direct",
}

_PREFIXES: Final = ("task_", "result_", "worker_", "beat_", "broker_", "event_", "control_")
_PLAIN: Final = ("broker_", "cassandra_", "s3_", "azureblockblob_", "elasticsearch_", "cosmosdbsql_")
"""Upper-cased as they are, these were settings of Celery 3 and 4."""


@lru_cache(maxsize=1)
def old_names() -> Mapping[str, str]:
    """Every old upper-case name that is understood, with today's name."""
    from kernel.config.catalogue import SERVED
    from kernel.config.unserved import UNSERVED

    today = [setting.name for setting in SERVED + UNSERVED]
    names: dict[str, str] = {}
    for name in today:
        # CELERY_ before any of today's names is what a file written for `namespace="CELERY"` has.
        names[f"CELERY_{name.upper()}"] = name
        if name.startswith(_PLAIN):
            names[name.upper()] = name
    for name in today:
        bare = name.upper().partition("_")[2]
        if name.startswith("task_"):
            names.setdefault(f"CELERY_{bare}", name)
        elif name.startswith("worker_"):
            names.setdefault(f"CELERYD_{bare}", name)
        elif name.startswith("beat_"):
            names.setdefault(f"CELERYBEAT_{bare}", name)
    return {**names, **_EXCEPTIONS}


def current_name(name: str) -> str | None:
    """Today's name of the setting that is, or once was, called `name`; None when `name` is no old or second name."""
    return ALIASES.get(name) or old_names().get(name)


def looks_like_setting(name: str) -> bool:
    """Whether `name` is spelled as settings are, so that it is more likely a typing error than somebody's variable."""
    return name.lower().startswith(_PREFIXES)
