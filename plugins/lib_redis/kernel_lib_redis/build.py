"""From a URL, options and settings to a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernel import errors
from kernel_lib_redis.options import checked, checked_tls
from kernel_lib_redis.places import Cluster, Fixed, Place, Sentinel, Several, asking, joined
from kernel_lib_redis.target import Manner, Target, login
from kernel_lib_redis.tls import tls_arguments
from kernel_lib_redis.urls import Address, Kind, parse

_PASSED_TO_SENTINEL = frozenset(
    {"username", "password", "socket_timeout", "socket_connect_timeout", "socket_keepalive", "client_name", "ssl"}
)


class Plan:
    """What a URL and the options come to: `place`, `db`, `options` as checked, and `idle`: texts that tell of
    options without effect. `setting` is the name of the setting that the options are from.

    Raises `ImproperlyConfigured` and its kinds, without passwords.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        options: Mapping[str, Any],
        setting: str,
        tls: object = None,
        tls_setting: str = "broker_use_ssl",
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        addresses = parse(url)
        given, self.idle = checked(options, setting)
        self.options: dict[str, Any] = {**(defaults or {}), **given}
        self.prefix: str = self.options.get("global_keyprefix") or ""
        self._setting = setting
        self._addresses = addresses
        self._timeout = timeout
        self._tls = tls
        self._tls_setting = tls_setting
        self.db = self._db(addresses[0])
        self.place = self._place()
        # Those of the URL go before, in what the pool asks for too.
        self.options.update(addresses[0].options)

    def _db(self, address: Address) -> int:
        if address.kind is Kind.CLUSTER:
            return 0
        return address.db if address.db is not None else int(self.options.get("db") or 0)

    def _manner(self, address: Address) -> Manner:
        of_url = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
        tls = tls_arguments(self._tls, self._tls_setting, wanted=address.tls, of_url=of_url)
        db = self.db if address.db is None or address.kind is not Kind.SERVER else address.db
        return Manner(self._timeout, login(self.options, address), tls, db)

    def _target(self, address: Address) -> Target:
        manner = self._manner(address)
        if address.kind is Kind.SOCKET:
            return manner.socket(address.path, address.shown)
        host, port = address.place
        options = self.options
        place = address.host or options.get("host") or host, address.port or options.get("port") or port
        return manner.tcp(place, address.shown)

    def _place(self) -> Place:
        addresses = self._addresses
        first = _whole(addresses)
        if first.kind is Kind.SENTINEL:
            return self._sentinel(first)
        if first.kind is Kind.CLUSTER:
            return Cluster(
                [address.place for address in addresses],
                self.prefix,
                manner=self._manner(first),
                shown=joined([address.shown for address in addresses]),
                setting=self._setting,
            )
        targets = [self._target(address) for address in addresses]
        return Fixed(targets[0]) if len(targets) == 1 else Several(targets)

    def _sentinel(self, first: Address) -> Sentinel:
        name = self.options.get("master_name")
        if name is None:
            raise errors.ImproperlyConfigured(
                f"{first.shown} asks Sentinel for a primary without a name; write {self._setting} = "
                "{'master_name': 'mymaster'}, as the Sentinels call it"
            )
        manner = self._manner(first)
        kwargs = _sentinel_kwargs(self.options.get("sentinel_kwargs") or {}, self._setting)
        return Sentinel(
            [address.place for address in self._addresses],
            name,
            manner=manner,
            asking=asking(manner, kwargs),
            others=self.options.get("min_other_sentinels") or 0,
            shown=joined([address.shown for address in self._addresses]),
        )


def _whole(addresses: Sequence[Address]) -> Address:
    """The first that has a login or options; else the first: one part of several speaks for all."""
    return next((each for each in addresses if each.password or each.username or each.options), addresses[0])


def _sentinel_kwargs(given: Mapping[str, Any], setting: str) -> dict[str, Any]:
    where = f"{setting}['sentinel_kwargs']"
    tls = {name: value for name, value in given.items() if str(name).startswith("ssl_")}
    plain = {name: value for name, value in given.items() if name not in tls and name != "ssl"}
    found, _ = checked(plain, where)
    if strange := sorted(set(found) - _PASSED_TO_SENTINEL):
        raise errors.UnknownSetting(
            f"{where} has {', '.join(strange)}, which is nothing to a Sentinel; "
            f"it takes {', '.join(sorted(_PASSED_TO_SENTINEL))} and ssl_..."
        )
    arguments = tls_arguments(checked_tls(tls, where) or None, where, wanted=bool(given.get("ssl") or tls), of_url={})
    return {**found, **({} if arguments is None else {"ssl": True, **arguments})}
