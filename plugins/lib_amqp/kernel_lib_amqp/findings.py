"""What ``kernel doctor`` says of a RabbitMQ server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kernel import errors
from kernel.hooks import Finding
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.faults import NOT_FOUND, PRECONDITION_FAILED, ChannelClosed
from kernel_lib_amqp.server import AmqpServer
from kernel_lib_amqp.wire import Wire

_OLDEST: Final = (3, 10)
_ROUNDS: Final = 10
_SLOW: Final = 0.005
_MOMENT: Final = 0.2
"""Seconds in which a server that is short of something says so to whoever connects and publishes."""


def examine(
    server: AmqpServer, queues: Mapping[str, Mapping[str, Any]], *, consumer_timeout: float, confirms: bool
) -> Sequence[Finding]:
    """What is right and wrong with a server that keeps messages. `queues` are ours, with the arguments that we would
    declare them with; `consumer_timeout` is what we take the server's to be, in seconds. Raises nothing of the
    server's."""
    try:
        wire = server.connect(role="doctor")
    except errors.KernelError as exc:
        return [Finding("broker RabbitMQ", "fail", str(exc))]
    try:
        channel = Channel(wire)
        found = [_version(wire), _blocked(server)]
        for name, arguments in sorted(queues.items()):
            found += _queue(channel, name, arguments)
        return [*found, *_assumptions(consumer_timeout, confirms=confirms), _latency(channel)]
    except errors.KernelError as exc:
        return [Finding("broker RabbitMQ", "fail", str(exc))]
    finally:
        wire.close()


def _version(wire: Wire) -> Finding:
    product, version = (str(wire.server_properties.get(name, "")) for name in ("product", "version"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if product != "RabbitMQ":
        return Finding(
            "broker RabbitMQ",
            "warn",
            f"{wire.shown} calls itself {product or 'nothing'} {version}".rstrip(),
            "delays, confirms and dead letters are tested with RabbitMQ alone",
        )
    if numbers < _OLDEST:
        return Finding("broker RabbitMQ", "warn", f"{version} is old", "3.10 or later is what this is tested with")
    return Finding("broker RabbitMQ", "ok", version)


def _blocked(server: AmqpServer) -> Finding:
    """A server with an alarm says so to a connection that publishes, a message to nobody will do, and reads nothing
    more from it: it needs one of its own."""
    wire = server.connect(role="doctor")
    try:
        Channel(wire).publish_to_nobody()
        wire.take(_MOMENT)
        if not wire.blocked:
            return Finding("broker alarms", "ok", "none: the server takes messages")
        return Finding(
            "broker alarms",
            "fail",
            f"the server takes no messages now: {wire.blocked}",
            "give it memory or disk, or work queues off; `rabbitmq-diagnostics alarms` says more",
        )
    finally:
        wire.close()


def _queue(channel: Channel, name: str, arguments: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether a queue is as we would declare it; one that is missing is made when it is needed."""
    subject = f"queue {name}"
    try:
        _, messages, consumers = channel.declare_queue(name, passive=True)
    except ChannelClosed as exc:
        channel.reopen()
        if exc.code == NOT_FOUND:
            yield Finding(subject, "ok", "is not there yet; it is made when it is needed")
        else:
            yield Finding(subject, "fail", str(exc))
        return
    try:
        # Of a queue that is there, it changes nothing: it is the same, or the server says what differs.
        channel.declare_queue(name, arguments=arguments)
    except ChannelClosed as exc:
        channel.reopen()
        if exc.code != PRECONDITION_FAILED:
            yield Finding(subject, "warn", str(exc))
            return
        text = str(exc).partition("PRECONDITION_FAILED - ")[2] or str(exc)
        lost = "durable" in text.partition(" for queue")[0]
        yield Finding(
            subject,
            "fail" if lost else "warn",
            f"is there otherwise than we declare it, and is used as it is: {text}",
            "a queue that is not durable is gone with the server: delete it when it is empty, and it is made durable"
            if lost
            else "declare it alike on both sides, or delete it when it is empty",
        )
        return
    yield Finding(subject, "ok", f"durable, as we declare it; {messages} waiting, {consumers} consumers")


def _assumptions(consumer_timeout: float, *, confirms: bool) -> Iterator[Finding]:
    yield Finding(
        "broker consumer_timeout",
        "ok",
        f"taken to be {consumer_timeout:g} s, which AMQP does not tell: tasks that run longer than "
        f"{consumer_timeout * 0.4:g} s are handed over before it ends them",
        "`rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).'` says it in milliseconds; if it is less, "
        "set broker_transport_options['consumer_timeout']",
    )
    if not confirms:
        yield Finding(
            "broker confirms",
            "warn",
            "confirm_publish is off: what is on its way when a connection breaks is lost without a word",
            "leave confirm_publish out of broker_transport_options",
        )


def _latency(channel: Channel) -> Finding:
    rounds = []
    for _ in range(_ROUNDS):
        before = time.perf_counter()
        channel.qos(0)
        rounds.append(time.perf_counter() - before)
    median = sorted(rounds)[_ROUNDS // 2]
    if median > _SLOW:
        return Finding(
            "broker latency",
            "warn",
            f"{median * 1000:.1f} ms for a round trip; a single `delay()` takes one at least",
            "bring the server nearer",
        )
    return Finding("broker latency", "ok", f"{median * 1000:.2f} ms for a round trip")
