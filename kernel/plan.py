"""`Plan`: what all calls of one task have in common, worked out once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from kernel.codecs import EMPTY_EMBED
from kernel.message import Form, Message, Publication
from kernel.options import CALL_DEFAULTS
from kernel.saferepr import args_repr, kwargs_repr

if TYPE_CHECKING:
    from kernel.codecs import Codecs
    from kernel.config import Settings
    from kernel.task import Task

SETTINGS: Final = (
    "task_serializer",
    "task_compression",
    "task_default_queue",
    "task_default_priority",
    "task_default_delivery_mode",
    "task_ignore_result",
    "task_time_limit",
    "task_soft_time_limit",
    "task_repr_maxlevels",
    "task_inherit_parent_priority",
)
"""The settings that a plan is made from: it is made anew when one of them changes."""

fingerprint: Final[Callable[[Settings], tuple[Any, ...]]] = attrgetter(*SETTINGS)

NO_KWARGS: Final = "{}"

# What a plan knows by itself; other defaults of a task (an expiry, an exchange) make each call be worked out.
_PLAIN_DEFAULTS: Final = frozenset(
    {"queue", "priority", "serializer", "delivery_mode", "time_limit", "soft_time_limit", "ignore_result"}
)


class Plan:
    """How a call of one task becomes a message: defaults of the task over those of the settings.

    `options` are the task's own. `plain` says that a call without options needs nothing but `publication`.
    """

    __slots__ = (
        "_body",
        "_content_type",
        "_encoding",
        "_form",
        "_head",
        "_properties",
        "_tail",
        "depth",
        "fingerprint",
        "name",
        "options",
        "origin",
        "persistent",
        "pid",
        "plain",
        "priority",
        "queue",
        "reply_to",
    )

    def __init__(
        self,
        name: str,
        task: Task[..., Any] | None,
        conf: Settings,
        *,
        codecs: Codecs,
        origin: str,
        reply_to: str,
        pid: int,
        routed: bool,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint(conf)
        self.pid = pid
        self.reply_to = reply_to
        self.origin = origin
        self.depth: int = conf.task_repr_maxlevels
        self.options = {option: value for option, value in _defaults(task, conf) if value is not None}
        options = self.options
        self.queue: str = queue_name(options["queue"])
        self.priority: int = options.get("priority") or 0
        self.persistent = is_persistent(options["delivery_mode"])
        self.plain = not routed and not conf.task_inherit_parent_priority and options.keys() <= _PLAIN_DEFAULTS
        codec = codecs.serializer(options["serializer"])
        self._body = codec.dumps
        self._content_type = codec.content_type
        self._encoding = codec.content_encoding
        known = properties(reply_to, persistent=self.persistent, priority=self.priority)
        del known["correlation_id"]
        self._properties = f",{json.dumps(known, separators=(',', ':'))[1:]}"
        limits = [options.get("time_limit"), options.get("soft_time_limit")]
        # The text is cut where the values of one call go in, so that a call costs one concatenation.
        self._head = f'{{"lang":"py","task":{quote(name)},"id":'
        self._tail = (
            ',"shadow":null,"eta":null,"expires":null,"group":null,"group_index":null,"retries":0,'
            f'"timelimit":{json.dumps(limits)},"origin":{quote(origin)},'
            f'"ignore_result":{json.dumps(options.get("ignore_result"))},'
            '"replaced_task_nesting":0,"stamped_headers":null,"stamps":{}}'
        )
        self._form = Form(
            {"lang": "py", "task": name},
            json.loads(f"{{{self._tail[1:]}"),
            known,
            content_type=codec.content_type,
            content_encoding=codec.content_encoding,
        )

    def publication(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], task_id: str, root_id: str, parent_id: str | None
    ) -> Publication:
        """The message of a call without options. Raises `EncodeError`."""
        body = self._body((args, kwargs if kwargs.__class__ is dict else dict(kwargs), EMPTY_EMBED))
        depth = self.depth
        quoted = quote(task_id)
        argsrepr = args_repr(args, depth=depth)
        kwargsrepr = kwargs_repr(kwargs, depth=depth) if kwargs else NO_KWARGS
        headers = (
            f'{self._head}{quoted},"root_id":{quoted if root_id is task_id else quote(root_id)},'
            f'"parent_id":{"null" if parent_id is None else quote(parent_id)},'
            f'"argsrepr":{quote(argsrepr)},"kwargsrepr":{quote(kwargsrepr)}{self._tail}'
        )
        message = Message(
            headers,
            body,
            content_type=self._content_type,
            content_encoding=self._encoding,
            properties=f'{{"correlation_id":{quoted}{self._properties}',
            known_id=task_id,
            filled=(self._form, (task_id, root_id, parent_id, argsrepr, kwargsrepr)),
        )
        return Publication(message, self.queue, priority=self.priority, persistent=self.persistent)


def properties(reply_to: str, *, persistent: bool, priority: int) -> dict[str, Any]:
    """What AMQP calls message properties; `correlation_id` is still to be set."""
    return {
        "correlation_id": "",
        "reply_to": reply_to,
        "delivery_mode": 2 if persistent else 1,
        "priority": priority,
    }


def queue_name(queue: Any) -> str:
    """The name of a queue that is given by name or as an object that has one (kombu's `Queue`)."""
    name = queue if isinstance(queue, str) else getattr(queue, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"queue is {queue!r:.80}; the name of a queue is needed")
    return name


def is_persistent(mode: int | str) -> bool:
    """Whether `delivery_mode` asks the broker to keep the message on disk. Raises ValueError."""
    if mode in (2, "persistent"):
        return True
    if mode in (1, "transient"):
        return False
    raise ValueError(f"delivery_mode is {mode!r:.40}; 2 or 'persistent', 1 or 'transient' is needed")


def _defaults(task: Task[..., Any] | None, conf: Settings) -> list[tuple[str, Any]]:
    if task is not None:
        found = {option: getattr(task, option, None) for option in CALL_DEFAULTS}
    else:
        # A task that only the worker knows has its own limits and its own say on results there.
        found = {"priority": conf.task_default_priority}
    found["queue"] = found.get("queue") or conf.task_default_queue
    found["serializer"] = found.get("serializer") or conf.task_serializer
    found["compression"] = found.get("compression") or conf.task_compression
    mode = found.get("delivery_mode")
    found["delivery_mode"] = conf.task_default_delivery_mode if mode is None else mode
    return list(found.items())
