"""Settings that Celery has and nothing here serves yet: known by name, kept when set, and warned about once.

Each moves to the catalogue, or to the driver that owns it, with the feature it belongs to.
"""

from __future__ import annotations

from typing import Any, Final

from kernel.interfaces.setting import Kind, Setting


def _later(
    name: str, kind: Kind, default: Any, doc: str, choices: tuple[Any, ...] = (), secret: bool = False
) -> Setting:
    optional = default is None or None in choices
    return Setting(name, kind, default, doc, optional, choices, served=False, secret=secret)


GENERAL: Final = (
    _later("override_backends", "dict", None, "Map names of result backends to classes."),
    _later("deprecated_settings", "any", None, "Set by Celery itself: names of deprecated settings that were found."),
    _later("db_reuse_max", "int", None, "Tasks after which Django's database connections are renewed."),
)

TASKS: Final = (
    _later("task_default_rate_limit", "any", None, "Rate limit of tasks that name none."),
    _later("task_protocol", "int", 2, "Version of the message protocol that is sent.", (1, 2)),
    _later("task_remote_tracebacks", "bool", False, "Errors carry the traceback of the worker."),
    _later("task_retry_on_worker_lost", "bool", False, "Retry a task whose process died."),
    _later("task_send_sent_event", "bool", False, "Send the event `task-sent`."),
)

RESULTS: Final = (
    _later("result_chord_join_timeout", "seconds", 3.0, "Time to join the results of a chord."),
    _later("result_exchange", "str", "celeryresults", "Exchange of results that are sent as messages."),
    _later("result_exchange_type", "str", "direct", "Type of that exchange."),
    _later("result_persistent", "bool", None, "Results that are sent as messages survive a restart of the broker."),
)

CACHE: Final = (
    _later("cache_backend", "any", None, "Name of the cache that stores results."),
    _later("cache_backend_options", "dict", {}, "Options of its client."),
)

STORES: Final = (
    _later("mongodb_backend_settings", "dict", None, "Settings of the MongoDB backend."),
    _later("cassandra_servers", "list", None, "Hosts of the Cassandra cluster."),
    _later("cassandra_secure_bundle_path", "str", None, "Connection bundle of Astra DB."),
    _later("cassandra_bundle_path", "str", None, "Declared by Celery, read by nothing."),
    _later("cassandra_port", "int", 9042, "Port of the Cassandra cluster."),
    _later("cassandra_keyspace", "str", None, "Keyspace of results."),
    _later("cassandra_table", "str", None, "Table of results."),
    _later("cassandra_read_consistency", "str", None, "Consistency of reads."),
    _later("cassandra_write_consistency", "str", None, "Consistency of writes."),
    _later("cassandra_entry_ttl", "seconds", None, "Age at which entries are deleted."),
    _later("cassandra_auth_provider", "str", None, "Class of `cassandra.auth`."),
    _later("cassandra_auth_kwargs", "dict", None, "Its arguments.", secret=True),
    _later("cassandra_options", "dict", {}, "Options of the cluster."),
    _later("s3_access_key_id", "str", None, "Access key of S3.", secret=True),
    _later("s3_secret_access_key", "str", None, "Secret key of S3.", secret=True),
    _later("s3_bucket", "str", None, "Bucket of results."),
    _later("s3_base_path", "str", None, "Prefix of keys."),
    _later("s3_endpoint_url", "str", None, "Endpoint of a server that is not Amazon's."),
    _later("s3_region", "str", None, "Region."),
    _later("azureblockblob_container_name", "str", "celery", "Container of results."),
    _later("azureblockblob_base_path", "str", "", "Prefix of blobs."),
    _later("azureblockblob_retry_initial_backoff_sec", "seconds", 2, "First pause between retries."),
    _later("azureblockblob_retry_increment_base", "int", 2, "Base of the growth of pauses."),
    _later("azureblockblob_retry_max_attempts", "int", 3, "Most attempts."),
    _later("azureblockblob_connection_timeout", "seconds", 20, "Time to connect."),
    _later("azureblockblob_read_timeout", "seconds", 120, "Time to read."),
    _later("gcs_bucket", "str", None, "Bucket of results."),
    _later("gcs_project", "str", None, "Project of the bucket."),
    _later("gcs_base_path", "str", "", "Prefix of blobs."),
    _later("gcs_ttl", "seconds", 0, "Age at which blobs are deleted."),
    _later("gcs_threadpool_maxsize", "int", 10, "Most HTTP connections."),
    _later("firestore_project", "str", None, "Project of the counters of chords."),
    _later("elasticsearch_retry_on_timeout", "bool", None, "Try another node after a timeout."),
    _later("elasticsearch_max_retries", "int", None, "Most retries."),
    _later("elasticsearch_timeout", "seconds", None, "Time for a request."),
    _later("elasticsearch_save_meta_as_text", "bool", True, "Store results as text, not as JSON documents."),
    _later("dynamodb_endpoint_url", "str", None, "Endpoint of a server that is not Amazon's."),
    _later("couchbase_backend_settings", "dict", None, "Settings of the Couchbase backend."),
    _later("arangodb_backend_settings", "dict", None, "Settings of the ArangoDB backend."),
    _later("cosmosdbsql_database_name", "str", "celerydb", "Database of results."),
    _later("cosmosdbsql_collection_name", "str", "celerycol", "Collection of results."),
    _later("cosmosdbsql_consistency_level", "str", "Session", "Consistency."),
    _later("cosmosdbsql_max_retry_attempts", "int", 9, "Most retries."),
    _later("cosmosdbsql_max_retry_wait_time", "seconds", 30, "Longest wait for a retry."),
)

BROKER: Final = (
    _later("broker_transport", "str", None, "Transport when the URL names none."),
    _later("broker_host", "str", None, "Host when there is no URL."),
    _later("broker_port", "int", None, "Port when there is no URL."),
    _later("broker_user", "str", None, "User when there is no URL."),
    _later("broker_password", "str", None, "Password when there is no URL.", secret=True),
    _later("broker_vhost", "str", None, "Virtual host when there is no URL."),
    _later("broker_channel_error_retry", "bool", False, "Treat errors of channels as ones that pass."),
    _later("broker_failover_strategy", "any", None, "Order in which several URLs are tried."),
    _later("broker_heartbeat", "seconds", 120, "Seconds between AMQP heartbeats."),
    _later("broker_heartbeat_checkrate", "float", 3.0, "Checks for each heartbeat."),
    _later("broker_login_method", "str", None, "AMQP login method."),
    _later(
        "broker_native_delayed_delivery_queue_type", "str", "quorum", "Type of delay queues.", ("classic", "quorum")
    ),
)

WORKER: Final = (
    _later("worker_agent", "any", None, "Class of the cell agent."),
    _later(
        "worker_autoscaler", "str", "celery.worker.autoscale:Autoscaler", "Class that changes the number of children."
    ),
    _later(
        "worker_cancel_long_running_tasks_on_connection_loss", "bool", False, "End late tasks when the broker is lost."
    ),
    _later("worker_consumer", "str", "celery.worker.consumer:Consumer", "Class of the consumer."),
    _later("worker_deduplicate_successful_tasks", "bool", False, "Skip tasks that succeeded and came again."),
    _later("worker_detect_quorum_queues", "bool", True, "Change how credit is given when queues are quorum queues."),
    _later("worker_disable_prefetch", "bool", False, "Claim only when a slot is free."),
    _later("worker_disable_rate_limits", "bool", False, "Ignore rate limits."),
    _later("worker_enable_prefetch_count_reduction", "bool", True, "Claim less after the connection was lost."),
    _later("worker_enable_remote_control", "bool", True, "Listen for remote control."),
    _later("worker_eta_task_limit", "int", None, "Most delayed tasks in memory."),
    _later("worker_lost_wait", "seconds", 10.0, "Time to wait for results of a child that died."),
    _later("worker_pool_putlocks", "bool", True, "Limit what is given to the pool."),
    _later("worker_pool_restarts", "bool", False, "Allow the remote command `pool_restart`."),
    _later("worker_send_task_events", "bool", False, "Send events of tasks."),
    _later("worker_state_db", "str", None, "File of revoked tasks."),
    _later("worker_timer", "any", None, "Class of the timer."),
    _later("worker_timer_precision", "seconds", 1.0, "Longest sleep of the timer."),
    _later("worker_logfile", "str", None, "Log file."),
    _later("worker_pidfile", "str", None, "File of the process id."),
    _later("worker_uid", "any", None, "User to become."),
    _later("worker_gid", "any", None, "Group to become."),
    _later("worker_umask", "any", None, "File mode mask."),
    _later("worker_executable", "str", None, "Python of the detached worker."),
)

BEAT: Final = (
    _later("beat_schedule", "dict", {}, "Periodic tasks."),
    _later("beat_scheduler", "any", "celery.beat:PersistentScheduler", "Class or name of the scheduler."),
    _later("beat_schedule_filename", "str", "celerybeat-schedule", "File of the scheduler."),
    _later("beat_sync_every", "int", 0, "Tasks after which the file is written."),
    _later("beat_max_loop_interval", "seconds", 0, "Longest sleep of the scheduler."),
    _later("beat_cron_starting_deadline", "seconds", None, "How late a missed run may still be sent."),
    _later("beat_enable_remote_control", "bool", False, "Answer pings."),
    _later("beat_remote_control_max_tick_age", "seconds", None, "Silence after which it counts as stuck."),
    _later("beat_logfile", "str", None, "Log file."),
    _later("beat_pidfile", "str", None, "File of the process id."),
    _later("beat_uid", "any", None, "User to become."),
    _later("beat_gid", "any", None, "Group to become."),
    _later("beat_umask", "any", None, "File mode mask."),
    _later("beat_executable", "str", None, "Python of the detached scheduler."),
)

EVENTS: Final = (
    _later("event_queue_expires", "seconds", 60.0, "Time after which the queue of a silent monitor is deleted."),
    _later("event_queue_ttl", "seconds", 5.0, "Age at which events are dropped."),
    _later("event_queue_prefix", "str", "celeryev", "First part of the names of monitors' queues."),
    _later("event_queue_exclusive", "bool", True, "Queues of monitors are exclusive."),
    _later("event_queue_durable", "bool", False, "Queues of monitors are durable."),
    _later("event_serializer", "str", "json", "Serializer of events."),
    _later("event_exchange", "str", "celeryev", "Exchange of events."),
    _later("events_logfile", "str", None, "Log file of the event commands."),
    _later("events_pidfile", "str", None, "File of their process id."),
    _later("events_uid", "any", None, "User to become."),
    _later("events_gid", "any", None, "Group to become."),
    _later("events_umask", "any", None, "File mode mask."),
    _later("events_executable", "str", None, "Python of the detached command."),
)

CONTROL: Final = (
    _later("control_queue_ttl", "seconds", 300.0, "Age at which commands and replies are dropped."),
    _later("control_queue_expires", "seconds", 10.0, "Time after which an unused queue is deleted."),
    _later("control_queue_exclusive", "bool", True, "Queues of commands are exclusive."),
    _later("control_queue_durable", "bool", False, "Queues of commands are durable."),
    _later("control_exchange", "str", "celery", "Namespace of remote control."),
)

SECURITY: Final = (
    _later("security_key", "str", None, "File of the private key.", secret=True),
    _later("security_key_password", "any", None, "Its password.", secret=True),
    _later("security_certificate", "str", None, "File of the certificate."),
    _later("security_cert_store", "str", None, "Folder of certificates that are trusted."),
    _later("security_digest", "str", "sha256", "Digest of signatures."),
)

UNSERVED: Final = GENERAL + TASKS + RESULTS + CACHE + STORES + BROKER + WORKER + BEAT + EVENTS + CONTROL + SECURITY
