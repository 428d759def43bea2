"""What ``kernel doctor`` says of a Redis server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

from kernel import errors
from kernel.hooks import Finding
from kernel_lib_redis.greeting import EVICTING, info
from kernel_lib_redis.link import Link
from kernel_lib_redis.server import RedisServer

Use = Literal["broker", "result backend"]

_ROUNDS: Final = 10
_SLOW: Final = 0.005
_FULL: Final = 0.9
_SKEW: Final = 1.0


def examine(server: RedisServer, use: Use) -> Sequence[Finding]:
    """What is right and wrong with a server that keeps messages or results. Raises nothing of the server's."""
    try:
        with server.link() as link:
            return [*_examine(link, info(link.call("INFO")), use)]
    except errors.KernelError as exc:
        return [Finding(f"{use} Redis", "fail", str(exc))]


def _examine(link: Link, facts: dict[str, str], use: Use) -> Iterator[Finding]:
    subject = f"{use} Redis"
    role, mode = facts.get("role", ""), facts.get("redis_mode", "standalone")
    if role == "slave":
        yield Finding(
            subject,
            "fail",
            f"{link.shown} is a replica and takes no writes",
            "name the primary in the URL, or let Sentinel find it: sentinel://",
        )
    else:
        replicas = facts.get("connected_slaves", "0")
        behind = "" if replicas == "0" else f", {replicas} replica{'' if replicas == '1' else 's'}"
        yield Finding(subject, "ok", f"{facts.get('redis_version')}, {mode}{behind}")
    for look in (_persistence, _failing_writes, _memory, _replication, _clock, _latency):
        yield from _each(look, link, facts, use)


def _each(look: Callable[[Link, dict[str, str], Use], Iterator[Finding]], *args: Any) -> Iterator[Finding]:
    """What one look finds; what the server does not let us see is left out."""
    link: Link = args[0]
    try:
        yield from look(*args)
    except errors.OperationalError:
        if link.broken:
            raise


def _persistence(link: Link, facts: dict[str, str], use: Use) -> Iterator[Finding]:
    subject = f"{use} persistence"
    what = "messages" if use == "broker" else "results"
    if facts.get("aof_enabled") == "1":
        fsync = _config(link, "appendfsync")
        if fsync == "always":
            yield Finding(subject, "ok", "appendonly yes, appendfsync always: what is confirmed is on disk")
        else:
            known = {"everysec": "the last second or two", "no": "what the system had not written yet, about 30 s"}
            lost = known.get(fsync, "what was not written yet (appendfsync cannot be read)")
            level: Literal["ok", "warn"] = "warn" if use == "broker" else "ok"
            yield Finding(
                subject,
                level,
                f"appendonly yes, appendfsync {fsync or 'unknown'}: a power cut loses {lost} of confirmed {what}",
                "appendfsync always, if that is too much; each write then waits for the disk"
                if level == "warn"
                else "",
            )
        return
    saves = _config(link, "save")
    lost = "all since the last snapshot" if saves else "all"
    yield Finding(
        subject,
        "warn",
        f"appendonly no{f', save {saves}' if saves else ''}: when the server ends, {lost} of the {what} "
        f"{'is' if saves else 'are'} lost",
        "appendonly yes, with appendfsync everysec or always",
    )


def _failing_writes(link: Link, facts: dict[str, str], use: Use) -> Iterator[Finding]:
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if facts.get(name, "ok") != "ok":
            yield Finding(
                f"{use} persistence",
                "fail",
                f"the last write of the {what} failed ({name}:{facts[name]}); Redis may refuse writes because of it",
                "look at the server's log; mostly the disk is full",
            )


def _memory(link: Link, facts: dict[str, str], use: Use) -> Iterator[Finding]:
    subject = f"{use} memory"
    policy, most, used = facts.get("maxmemory_policy", ""), _int(facts, "maxmemory"), _int(facts, "used_memory")
    if policy in EVICTING:
        what = "waiting tasks" if use == "broker" else "results"
        yield Finding(
            subject,
            "fail" if use == "broker" else "warn",
            f"maxmemory-policy {policy}: when memory is full ({_size(most)}), {what} are deleted without a word",
            "maxmemory-policy noeviction",
        )
    elif policy.startswith("volatile") and use == "result backend":
        yield Finding(
            subject,
            "warn",
            f"maxmemory-policy {policy}: when memory is full ({_size(most)}), results are deleted before they expire",
            "maxmemory-policy noeviction",
        )
    elif most and used > most * _FULL:
        yield Finding(
            subject,
            "warn",
            f"{_size(used)} of {_size(most)} are used; a full server refuses what is published",
            "raise maxmemory, start workers, or purge what nobody needs",
        )
    else:
        limit = _size(most) if most else "no limit"
        yield Finding(subject, "ok", f"{_size(used)} used, {limit}, maxmemory-policy {policy or 'unknown'}")


def _replication(link: Link, facts: dict[str, str], use: Use) -> Iterator[Finding]:
    if _int(facts, "connected_slaves") and _config(link, "min-replicas-to-write") == "0":
        yield Finding(
            f"{use} replication",
            "warn",
            "replicas get writes later than we get their confirmation: a failover loses the last ones, and a primary "
            "that is cut off goes on taking some that are lost",
            "min-replicas-to-write 1 with min-replicas-max-lag 10 bounds the second",
        )


def _clock(link: Link, facts: dict[str, str], use: Use) -> Iterator[Finding]:
    before = time.time()
    seconds, micros = link.call("TIME")
    skew = int(seconds) + int(micros) / 1e6 - (before + time.time()) / 2
    if use == "broker" and abs(skew) > _SKEW:
        yield Finding(
            "broker clock",
            "warn",
            f"the server's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's; tasks "
            "with an eta or a countdown are that much early or late",
            "let NTP set both",
        )


def _latency(link: Link, facts: dict[str, str], use: Use) -> Iterator[Finding]:
    rounds = []
    for _ in range(_ROUNDS):
        before = time.perf_counter()
        link.call("PING")
        rounds.append(time.perf_counter() - before)
    median = sorted(rounds)[_ROUNDS // 2]
    if median > _SLOW:
        yield Finding(
            f"{use} latency",
            "warn",
            f"{median * 1000:.1f} ms for a round trip; a single `delay()` takes one at least",
            "bring the server nearer; `CONFIG SET latency-monitor-threshold 10` and `LATENCY DOCTOR` look inside it",
        )
    else:
        yield Finding(f"{use} latency", "ok", f"{median * 1000:.2f} ms for a round trip")


def _config(link: Link, name: str) -> str:
    """A value of the server's configuration; "" where it may not be read, as with most hosted servers."""
    try:
        found = link.call("CONFIG", "GET", name)
    except errors.OperationalError:
        if link.broken:
            raise
        return ""
    return found[1].decode("utf-8", "replace") if len(found) > 1 else ""


def _int(facts: dict[str, str], name: str) -> int:
    text = facts.get(name, "0").strip()
    return int(text) if text.isdecimal() else 0


def _size(count: int) -> str:
    return f"{count / 1024 / 1024:.0f} MB" if count >= 1024 * 1024 else f"{count / 1024:.0f} kB"
