"""`Publisher`: the client's path. Route, encode, let plugins edit, send in batches, and try again."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from kernel import errors, plan
from kernel.call import NO_OPTIONS, Call, due_moment, expiry_moment, iso_text
from kernel.codecs import EMPTY_EMBED
from kernel.config import version
from kernel.deferred import Unwritten, message_of
from kernel.deliver import Delivering, RetryPolicy
from kernel.message import Message, Publication
from kernel.naming import derive_id, new_id, process_name
from kernel.options import CALL_OPTIONS, ROUTED, split_call_options
from kernel.plan import Plan
from kernel.request import RESERVED_HEADERS, Request, check_headers, parse_time_limits, running_request
from kernel.routing.address import PLACE, Address, layered
from kernel.routing.routing import Routing
from kernel.saferepr import args_repr, kwargs_repr
from kernel.signature import as_signatures

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.deliver import Way

__all__ = ["Call", "Publisher", "RetryPolicy", "derive_id", "new_id"]

_MAX_PRIORITY: Final = 255
_CLEARABLE: Final = frozenset({"time_limit", "soft_time_limit", "expires"})
_ROUTABLE: Final = PLACE | {"priority", "serializer", "compression", "delivery_mode"}
"""Options that a router takes away by leaving them out of its answer."""


class Publisher:
    """Makes messages of calls, and sends them. `prepare` does no I/O and may raise; what it made can be sent.

    Usable from any thread.
    """

    def __init__(self, app: Kernel) -> None:
        self._app = app
        self._plans: dict[str, Plan] = {}
        self.routing = Routing(app.conf, app.extensions)
        self._delivering = Delivering(app)
        self._policy: tuple[Mapping[str, Any], RetryPolicy] = ({}, RetryPolicy.of({}, None))

    # --- making messages ------------------------------------------------------------------------------------

    def prepare(self, call: Call, *, after: Message | None = None) -> Publication:
        """The message of a call and where it goes, edited by plugins (`kernel_publish_start`).

        `after` is for what is most likely run here, when the task of that message has ended: its body is written when
        it is needed, if the chain in it is what was read from that message.

        Plugins edit here, and not when it is sent: a message may also travel with a settlement, and this is the
        caller's thread and context. Raises what they raise, TypeError and ValueError for options that cannot be,
        `EncodeError` for arguments that cannot be serialized, `QueueNotFound`, and `DriverError` for a serializer
        that is not there.
        """
        made = self.plan(call.name)
        task_id, root_id, parent_id = self.lineage(call)
        if made.plain and not call.options and not call.redelivered:
            publication = made.publication(call.args, call.kwargs, task_id, root_id, parent_id)
        else:
            publication = self._prepare_with_options(made, call, (task_id, root_id, parent_id), after)
        return self.edited(publication)

    def edited(self, publication: Publication) -> Publication:
        """It, as plugins would have it."""
        for plugin, edit in self._app.extensions.hot.kernel_publish_start or ():
            try:
                edit(publication)
            except Exception as exc:
                exc.add_note(f"raised by the plugin {plugin} in kernel_publish_start")
                raise
        return publication

    def plan(self, name: str) -> Plan:
        """What all calls of the task `name` have in common."""
        conf = self._app.conf
        made = self._plans.get(name)
        if made is not None and made.pid == os.getpid() and made.version is version(conf):
            return made
        app = self._app
        made = Plan(
            name,
            app.tasks.get(name),
            conf,
            codecs=app.codecs,
            origin=process_name(),
            reply_to=app.oid,
            pid=os.getpid(),
            routing=self.routing,
        )
        self._plans[name] = made
        return made

    def forget_plan(self, name: str) -> None:
        """The task was registered or changed."""
        self._plans.pop(name, None)

    def flush(self) -> None:
        """Work out anew where calls go: settings may have been changed in place."""
        self.routing.flush()
        self._plans = {}

    def lineage(self, call: Call) -> tuple[str, str, str | None]:
        """The ids of the task, of the one that all began with, and of the one that calls it."""
        options = call.options
        task_id = call.task_id or options.get("task_id") or new_id()
        if not isinstance(task_id, str):
            raise TypeError(f"task_id is {task_id!r:.60}; a text is needed")
        root_id = call.root_id or options.get("root_id")
        parent_id = call.parent_id or options.get("parent_id")
        if root_id is None and parent_id is None and not call.detached:
            request = self.parent()
            if request is not None:
                return task_id, request.root_id or request.id or task_id, request.id
        return task_id, root_id or task_id, parent_id

    def parent(self) -> Request | None:
        """The request of the task of this app that runs in this context."""
        request = running_request()
        return request if request is not None and request.app is self._app else None

    def _prepare_with_options(
        self, made: Plan, call: Call, lineage: tuple[str, str, str | None], after: Message | None
    ) -> Publication:
        app = self._app
        known, extra = split_call_options(call.options)
        options, address = self._merge(made, call, known)
        now = time.time()
        due = due_moment(options.get("countdown"), options.get("eta"), app.timezone, now)
        expires = options.get("expires")
        until = None if expires is None else expiry_moment(expires, app.timezone, now)
        embed = _embed(options, plain=not app.codecs.takes_subclasses(options["serializer"]))
        body, content_type, encoding, added = self._body(call, embed, options, after)
        headers = self._headers(made, call, options, lineage)
        headers.update(added, eta=due and iso_text(due), expires=until and iso_text(until), **address.headers)
        priority = self._priority(options)
        mode = plan.delivery_mode(options, address, app.conf.task_default_delivery_mode)
        persistent = plan.is_persistent(mode)
        props = plan.properties(options.get("reply_to") or made.reply_to, persistent=persistent, priority=priority)
        props["correlation_id"] = lineage[0]
        if until is not None:
            left = until.timestamp() - now
            if not (options.get("chord") or options.get("chain")):
                # A server may drop what has expired; whoever waits for what was to come after it is told by a worker.
                props["expiration"] = str(max(0, round(left * 1000)))
            if left < 0:
                # Seldom meant, and nobody else says so: the task is revoked as soon as a worker has it.
                _logger().warning("task %s[%s] expired %.0f s before it was sent", call.name, lineage[0], -left)
        props.update(options.get("properties") or {}, **extra)
        return Publication(
            message_of(
                _json(headers, "headers"),
                body,
                content_type=content_type,
                content_encoding=encoding,
                properties=_json(props, "properties"),
                known_id=lineage[0] if props["correlation_id"] == lineage[0] else "",
            ),
            address.queue,
            priority=priority,
            due=None if due is None else due.timestamp(),
            expires=None if until is None else until.timestamp(),
            exchange=address.exchange,
            routing_key=address.routing_key,
            persistent=persistent,
        )

    def _body(
        self, call: Call, embed: Mapping[str, Any], options: Mapping[str, Any], after: Message | None
    ) -> tuple[bytes | Unwritten, str, str, Mapping[str, Any]]:
        """As `Codecs.encode_body`."""
        codecs, serializer, compression = self._app.codecs, options["serializer"], options.get("compression")
        chain = embed["chain"]
        codec = codecs.serializer(serializer)
        if after is None or not chain or compression is not None or codec.content_type != after.content_type:
            return codecs.encode_body(call.args, call.kwargs, embed, serializer=serializer, compression=compression)
        start, content_type, encoding, added = codecs.encode_body(
            call.args, call.kwargs, {**embed, "chain": None}, serializer=serializer
        )
        size = len(start) + after.size * len(chain) // (len(chain) + 1)
        return Unwritten(codec, start, chain, size=size), content_type, encoding, added

    def _merge(self, made: Plan, call: Call, given: dict[str, Any]) -> tuple[dict[str, Any], Address]:
        """What the settings say, under the route, under the task's own options, under what the caller says."""
        otherwise = not ROUTED.isdisjoint(given)
        if otherwise:
            options = self._routed_otherwise(made, call, given)
        elif made.fixed:
            options = layered(made.options, given)
        else:
            route = self.routing.find(call.name, call.args, call.kwargs, given, made.task)
            options = layered(made.general, route, made.own, given)
        for option in _CLEARABLE:
            if option in given and given[option] is None:
                options.pop(option, None)
        if not options.keys() <= CALL_OPTIONS:
            properties = {name: options.pop(name) for name in options.keys() - CALL_OPTIONS}
            # What a route says and no option is called: it goes along, as with the caller's own.
            options["properties"] = {**properties, **(options.get("properties") or {})}
        if made.addressed and PLACE.isdisjoint(given) and not otherwise:
            return options, made.address
        return options, self.routing.address(options)

    def _routed_otherwise(self, made: Plan, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        """The same for a call that says who routes it (`router`), under which name (`route_name`), or as which task
        (`task_type`)."""
        router, name, task = given.get("router"), given.get("route_name") or call.name, given.get("task_type")
        given = {option: value for option, value in given.items() if option not in ROUTED}
        if task is not None and not isinstance(getattr(task, "name", None), str):
            raise TypeError(f"task_type is {task!r:.80}; a task is needed")
        own, task = (made.own, made.task) if task is None else (plan.own_options(task), task)
        if router is None:
            return layered(made.general, self.routing.find(name, call.args, call.kwargs, given, task), own, given)
        ask = None if isinstance(router, type) else getattr(router, "route", None)
        said = layered(own, given)
        found = ask(dict(said), name, call.args, call.kwargs, task) if callable(ask) else None
        if not isinstance(found, Mapping):
            raise TypeError(
                f"router is {router!r:.80}; an object is needed whose route(options, name, args, kwargs, task) returns "
                "the options of the call, such as app.amqp.router"
            )
        # What follows the call, and whose part it is, stays as it was also where the answer leaves it out.
        return layered(made.general, {name: said[name] for name in said.keys() - _ROUTABLE}, found)

    def _priority(self, options: Mapping[str, Any]) -> int:
        priority = options.get("priority")
        if self._app.conf.task_inherit_parent_priority and priority is None:
            request = self.parent()
            priority = request.delivery_info.get("priority") if request is not None else None
        if priority is None:
            return 0
        if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= _MAX_PRIORITY:
            raise ValueError(f"priority is {priority!r:.40}; a whole number from 0 to {_MAX_PRIORITY} is needed")
        return priority

    def _headers(
        self, made: Plan, call: Call, options: Mapping[str, Any], lineage: tuple[str, str, str | None]
    ) -> dict[str, Any]:
        task_id, root_id, parent_id = lineage
        own = options.get("headers") or NO_OPTIONS
        if not isinstance(own, Mapping):
            raise TypeError(f"headers is {own!r:.60}; a dictionary of your own headers is needed")
        taken = RESERVED_HEADERS.intersection(own)
        if taken:
            raise ValueError(f"headers may not contain {', '.join(sorted(taken))}: the protocol has them itself")
        depth = made.depth
        argsrepr, kwargsrepr = options.get("argsrepr"), options.get("kwargsrepr")
        headers = {
            "lang": "py",
            "task": call.name,
            "id": task_id,
            "shadow": options.get("shadow"),
            "eta": None,
            "expires": None,
            "group": options.get("group_id"),
            "group_index": options.get("group_index"),
            "retries": options.get("retries") or 0,
            "timelimit": _time_limits(options),
            "root_id": root_id,
            "parent_id": parent_id,
            "argsrepr": args_repr(call.args, depth=depth) if argsrepr is None else argsrepr,
            "kwargsrepr": kwargs_repr(call.kwargs, depth=depth) if kwargsrepr is None else kwargsrepr,
            "origin": options.get("origin") or made.origin,
            "ignore_result": options.get("ignore_result"),
            "replaced_task_nesting": options.get("replaced_task_nesting") or 0,
            "stamped_headers": options.get("stamped_headers"),
            "stamps": options.get("stamps") or {},
            **own,
        }
        if call.redelivered:
            headers["redelivered"] = True
        try:
            check_headers(headers)
        except errors.InvalidTaskError as exc:
            raise TypeError(f"task {call.name} cannot be called with these options: {exc}") from None
        return headers

    def prepare_retry(
        self,
        message: Message,
        *,
        queue: str,
        retries: int,
        due: float | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        embed: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> Publication:
        """The message again, under its own id, with `retries` and not before `due` (Unix seconds).

        Everything else stays (lineage, links, expiry, limits, priority), save for what `options` says. The body
        is sent as it came unless `args`, `kwargs` or `embed` is given; what is not given is then taken from it.
        Raises what `prepare` raises, and what decoding the body raises.
        """
        known, extra = split_call_options(options)
        app = self._app
        now = time.time()
        headers: dict[str, Any] = {**message.headers, "retries": retries}
        headers.pop("redelivered", None)
        headers["eta"] = None if due is None else iso_text(datetime.fromtimestamp(due, tz=UTC))
        expires = known["expires"] if known.get("expires") is not None else headers.get("expires")
        until = None if expires is None else expiry_moment(expires, app.timezone, now)
        headers["expires"] = until and iso_text(until)
        _override_headers(headers, known)
        body, content_type, encoding = message.body, message.content_type, message.content_encoding
        if args is not None or kwargs is not None or embed is not None or known.get("serializer"):
            body, content_type, encoding = self._encode_again(message, headers, known, (args, kwargs, embed))
        address = self._again(known, queue, headers)
        priority = self._priority(known) if known.get("priority") is not None else message.priority
        props = {**message.properties, "priority": priority, **extra}
        dropped = props.pop("expiration", None) is not None or known.get("expires") is not None
        if until is not None and dropped:
            props["expiration"] = str(max(0, round((until.timestamp() - now) * 1000)))
        publication = Publication(
            Message(
                _json(headers, "headers"), body, content_type=content_type, content_encoding=encoding, properties=props
            ),
            address.queue,
            priority=priority,
            due=due,
            expires=None if until is None else until.timestamp(),
            exchange=address.exchange,
            routing_key=address.routing_key,
            persistent=props.get("delivery_mode") != 1,
        )
        return self.edited(publication)

    def _again(self, known: Mapping[str, Any], queue: str, headers: dict[str, Any]) -> Address:
        """Where a retry goes: to the queue that its task came from, unless it says otherwise, which `headers` say."""
        if all(known.get(name) is None for name in ("queue", "exchange", "routing_key")):
            return Address(queue)
        address = self.routing.address({"queue": queue, **{k: v for k, v in known.items() if v is not None}})
        for name in ("kernel_exchange", "kernel_routing_key"):
            headers.pop(name, None)
        headers.update(address.headers)
        return address

    def _encode_again(
        self, message: Message, headers: dict[str, Any], options: Mapping[str, Any], parts: tuple[Any, Any, Any]
    ) -> tuple[bytes, str, str]:
        codecs = self._app.codecs
        args, kwargs, embed = parts
        if args is None or kwargs is None or embed is None:
            old_args, old_kwargs, old_embed = codecs.decode_body(message)
            args = old_args if args is None else args
            kwargs = old_kwargs if kwargs is None else kwargs
            embed = old_embed if embed is None else embed
        body, content_type, encoding, added = codecs.encode_body(
            args,
            kwargs,
            embed,
            serializer=options.get("serializer") or message.content_type,
            compression=options.get("compression") or headers.get("compression"),
        )
        headers.update(added)
        headers["argsrepr"] = options.get("argsrepr") or args_repr(args)
        headers["kwargsrepr"] = options.get("kwargsrepr") or kwargs_repr(kwargs)
        return body, content_type, encoding

    # --- sending --------------------------------------------------------------------------------------------

    def send(
        self,
        publications: Sequence[Publication],
        *,
        retry: bool | None = None,
        policy: Mapping[str, Any] | None = None,
        way: Way | None = None,
        timeout: float | None = None,
        whole: bool = False,
    ) -> None:
        """Send, in few round trips; every message is on the broker when this returns.

        `way` is over what they are sent, if not over what the app has open; `timeout` the seconds that one attempt
        may take, where the broker can tell. With `whole` all of them are stored or none, where the broker can, if this
        process dies meanwhile. Raises `OperationalError` (with `PublishUnknown` when a message may
        have arrived) when the broker cannot be reached within the retry policy, or refuses a message; others of the
        batch may have been stored.
        """
        for error in self.deliver(publications, retry=retry, policy=policy, way=way, timeout=timeout, whole=whole):
            if error is not None:
                raise error

    def deliver(
        self,
        publications: Sequence[Publication],
        *,
        retry: bool | None = None,
        policy: Mapping[str, Any] | None = None,
        way: Way | None = None,
        timeout: float | None = None,
        whole: bool = False,
    ) -> Sequence[BaseException | None]:
        """`send`, with one answer for each: None when it is stored, or why it is not."""
        conf = self._app.conf
        retry = conf.task_publish_retry if retry is None else retry
        if not retry:
            rules = RetryPolicy.once()
        elif policy is None:
            rules = self._usual_policy(conf.task_publish_retry_policy)
        else:
            rules = RetryPolicy.of(conf.task_publish_retry_policy, policy)
        return self._delivering.deliver(publications, rules, way, timeout, whole=whole)

    def _usual_policy(self, setting: Mapping[str, Any]) -> RetryPolicy:
        """That of the settings, worked out when they change."""
        known, rules = self._policy
        if known != setting:
            rules = RetryPolicy.of(setting, None)
            self._policy = dict(setting), rules
        return rules

    def stop(self) -> None:
        """End every pause between attempts: whoever waits gets the error of the last one."""
        self._delivering.stop()


def _logger() -> logging.Logger:
    return logging.getLogger("kernel.publish")


def _embed(options: Mapping[str, Any], *, plain: bool) -> Mapping[str, Any]:
    """What follows a task, in its message; with `plain` signatures, which are a subclass of dictionaries, become these.
    What is far down a chain is carried by each link before it, so what can be left as it is is not touched."""
    link, link_error = options.get("link"), options.get("link_error")
    chain, chord = options.get("chain"), options.get("chord")
    if not (link or link_error or chain or chord):
        return EMPTY_EMBED
    embed = {
        "callbacks": list(as_signatures(link)) or None,
        "errbacks": list(as_signatures(link_error)) or None,
        "chain": list(chain) if chain else None,
        "chord": chord or None,
    }
    return {name: _plain(value) for name, value in embed.items()} if plain else embed


def _plain(value: Any) -> Any:
    """A signature, and all signatures in its options, as plain dictionaries."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _time_limits(options: Mapping[str, Any]) -> list[float | None]:
    limits = [options.get("time_limit"), options.get("soft_time_limit")]
    try:
        hard, soft = parse_time_limits(limits)
    except errors.InvalidTaskError:
        raise ValueError(
            f"time_limit is {limits[0]!r:.40} and soft_time_limit {limits[1]!r:.40}; seconds above 0 or None are needed"
        ) from None
    if hard is not None and soft is not None and soft > hard:
        raise ValueError(f"soft_time_limit ({soft:g} s) is over time_limit ({hard:g} s): it could never be reached")
    return [hard, soft]


def _override_headers(headers: dict[str, Any], known: Mapping[str, Any]) -> None:
    """What the options of a retry change in the headers of the message."""
    if "time_limit" in known or "soft_time_limit" in known:
        old = headers.get("timelimit") or [None, None]
        headers["timelimit"] = _time_limits({"time_limit": old[0], "soft_time_limit": old[1], **known})
    for option in ("shadow", "ignore_result", "argsrepr", "kwargsrepr", "stamped_headers", "stamps"):
        if known.get(option) is not None:
            headers[option] = known[option]
    headers.update({k: v for k, v in (known.get("headers") or {}).items() if k not in RESERVED_HEADERS})


_compact: Final = json.JSONEncoder(separators=(",", ":")).encode


def _json(value: Mapping[str, Any], what: str) -> str:
    try:
        return _compact(value)
    except (TypeError, ValueError, RecursionError) as exc:
        bad = [name for name, item in value.items() if not _is_json(item)]
        raise errors.EncodeError(
            f"{what} of a message are JSON; {', '.join(map(repr, bad)) or 'they'} cannot be: {exc}"
        ) from exc


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
