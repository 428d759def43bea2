"""`Plan`: what all calls of one task have in common, worked out once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kernel.codecs import EMPTY_EMBED
from kernel.config import version
from kernel.errors import EncodeError, QueueNotFound
from kernel.message import Form, Message, Publication
from kernel.options import CALL_DEFAULTS
from kernel.routing.address import Address, layered
from kernel.saferepr import args_repr, kwargs_repr

if TYPE_CHECKING:
    from kernel.codecs import Codecs
    from kernel.config import Settings
    from kernel.routing.routing import Routing
    from kernel.task import Task

NO_KWARGS: Final = "{}"
_NO_KWARGS_TEXT: Final = quote(NO_KWARGS)
_UNTIMED: Final = ',"shadow":null,"eta":null,"expires":null,'

# What a plan knows by itself; other defaults of a task (an expiry, an exchange) make each call be worked out.
_PLAIN_DEFAULTS: Final = frozenset(
    {
        "queue",
        "exchange",
        "exchange_type",
        "routing_key",
        "priority",
        "serializer",
        "delivery_mode",
        "time_limit",
        "soft_time_limit",
        "ignore_result",
    }
)


class Ending(NamedTuple):
    """What follows the members of a chord, as the end of their bodies in place of `otherwise`."""

    embed: Mapping[str, Any]
    text: bytes
    otherwise: bytes


class Plan:
    """How a call of one task becomes a message: the task's own options over its route over the settings.

    `general` are those of the settings, `own` those of the task, and `options` all together where the route is the same
    for every call (`fixed`). `addressed` says that `address` is where calls go that do not say otherwise, and `plain`
    that a call without options needs nothing but `publication`.
    """

    __slots__ = (
        "_body",
        "_content_type",
        "_encoding",
        "_form",
        "_head",
        "_properties",
        "_rest",
        "_subclasses",
        "_tail",
        "address",
        "addressed",
        "depth",
        "fixed",
        "general",
        "name",
        "options",
        "origin",
        "own",
        "persistent",
        "pid",
        "plain",
        "priority",
        "queue",
        "reply_to",
        "task",
        "version",
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
        routing: Routing,
    ) -> None:
        self.name = name
        self.task = task
        # Whatever is read below may be changed meanwhile: then this is an old version.
        self.version = version(conf)
        self.pid = pid
        self.reply_to = reply_to
        self.origin = origin
        self.depth: int = conf.task_repr_maxlevels
        self.general, self.own = _general(task, conf), own_options(task)
        self.fixed = routing.fixed
        route = routing.find(name, (), {}, {}, task) if self.fixed else {}
        self.options = options = layered(self.general, route, self.own)
        try:
            self.address, found = routing.address(options), True
        except QueueNotFound:
            # Whoever calls may name another one.
            self.address, found = Address(""), False
        self.queue: str = self.address.queue
        self.priority: int = options.get("priority") or 0
        self.persistent = is_persistent(delivery_mode(options, self.address, conf.task_default_delivery_mode))
        self.addressed = found and self.fixed
        self.plain = self.addressed and not conf.task_inherit_parent_priority and options.keys() <= _PLAIN_DEFAULTS
        codec = codecs.serializer(options["serializer"])
        self._subclasses = codecs.takes_subclasses(options["serializer"])
        self._body = codec.dumps
        self._content_type = codec.content_type
        self._encoding = codec.content_encoding
        known = properties(reply_to, persistent=self.persistent, priority=self.priority)
        del known["correlation_id"]
        self._properties = f",{json.dumps(known, separators=(',', ':'))[1:]}"
        limits = [options.get("time_limit"), options.get("soft_time_limit")]
        address = "".join(f",{quote(header)}:{quote(value)}" for header, value in self.address.headers.items())
        # The text is cut where the values of one call go in, so that a call costs one concatenation.
        self._head = f'{{"lang":"py","task":{quote(name)},"id":'
        self._rest = (
            f',"retries":0,"timelimit":{json.dumps(limits)},"origin":{quote(origin)},'
            f'"ignore_result":{json.dumps(options.get("ignore_result"))},'
            f'"replaced_task_nesting":0,"stamped_headers":null,"stamps":{{}}{address}}}'
        )
        self._tail = f'{_UNTIMED}"group":null,"group_index":null{self._rest}'
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
        return self._addressed(message)

    def member(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        lineage: tuple[str, str, str | None],
        place: tuple[str, int],
        ending: Ending | None,
    ) -> Publication:
        """The message of a call that is a member of a group: the id of that, and its index. `ending` is that of its
        chord, if there is one. Raises `EncodeError`."""
        kwargs = kwargs if kwargs.__class__ is dict else dict(kwargs)
        body = self._body((args, kwargs, EMPTY_EMBED))
        if ending is not None:
            if body.endswith(ending.otherwise):
                body = body[: -len(ending.otherwise)] + ending.text
            else:
                body = self._body((args, kwargs, ending.embed))
        (task_id, root_id, parent_id), (group_id, index), depth = lineage, place, self.depth
        quoted = quote(task_id)
        headers = (
            f'{self._head}{quoted},"root_id":{quoted if root_id is task_id else quote(root_id)},'
            f'"parent_id":{"null" if parent_id is None else quote(parent_id)},'
            f'"argsrepr":{quote(args_repr(args, depth=depth))},'
            f'"kwargsrepr":{quote(kwargs_repr(kwargs, depth=depth)) if kwargs else _NO_KWARGS_TEXT}'
            f'{_UNTIMED}"group":{quote(group_id)},"group_index":{index}{self._rest}'
        )
        return self._addressed(
            Message(
                headers,
                body,
                content_type=self._content_type,
                content_encoding=self._encoding,
                properties=f'{{"correlation_id":{quoted}{self._properties}',
                known_id=task_id,
            )
        )

    def ending(self, chord: Mapping[str, Any]) -> Ending | None:
        """How bodies of members of this chord end; None where they are no JSON, of which a part can be written by
        itself, and for a chord that cannot be written."""
        if self._content_type != "application/json" or not self._subclasses:
            return None
        embed = {**EMPTY_EMBED, "chord": chord}
        try:
            return Ending(embed, self._body(embed) + b"]", self._body(EMPTY_EMBED) + b"]")
        except EncodeError:
            return None  # the error of a whole body says where in it

    def _addressed(self, message: Message) -> Publication:
        if self.address.exchange:
            return Publication(
                message,
                self.queue,
                priority=self.priority,
                exchange=self.address.exchange,
                routing_key=self.address.routing_key,
                persistent=self.persistent,
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


def delivery_mode(options: Mapping[str, Any], address: Address, default: int | str) -> int | str:
    """The option, or that of the exchange, or the setting."""
    for mode in (options.get("delivery_mode"), address.delivery_mode):
        if mode is not None:
            return mode
    return default


def own_options(task: Task[..., Any] | None) -> dict[str, Any]:
    """What the task itself says of its calls; what it has from the settings is not its own."""
    found: dict[str, Any] = {}
    if task is None:
        return found
    for option in CALL_DEFAULTS:
        value = _said(task, option)
        if value is not None:
            found[option] = value
    return found


def _said(task: Task[..., Any], option: str) -> Any:
    for holder in (task, *type(task).__mro__):
        if option in holder.__dict__:
            value = holder.__dict__[option]
            # A property or the like is asked; what follows a setting says nothing.
            if not hasattr(value, "__get__"):
                return value
            return None if hasattr(value, "setting") else getattr(task, option)
    return None


def _general(task: Task[..., Any] | None, conf: Settings) -> dict[str, Any]:
    """What the settings say of all calls."""
    found: dict[str, Any] = {
        "priority": conf.task_default_priority,
        "serializer": conf.task_serializer,
        "compression": conf.task_compression,
    }
    if task is not None:
        # A task that only the worker knows has its own limits and its own say on results there.
        found["ignore_result"] = conf.task_ignore_result
        found["time_limit"], found["soft_time_limit"] = conf.task_time_limit, conf.task_soft_time_limit
    return {option: value for option, value in found.items() if value is not None}
