"""URLs, options and settings: what they come to, and what is said of wrong ones. Nothing is connected."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from kernel_lib_redis import RedisServer, Target, backend_server, broker_server, mask, parse
from kernel_lib_redis.options import OPTIONS, TLS_OPTIONS
from redis.credentials import UsernamePasswordCredentialProvider

from kernel import errors
from kernel.interfaces.backend import BackendConfig
from kernel.interfaces.broker import BrokerConfig


def target(url: str, **options: Any) -> Target:
    return target_of(RedisServer(url, timeout=2.5, options=options))


def target_of(server: RedisServer) -> Target:
    found = getattr(server.place, "_target", None)
    assert isinstance(found, Target)
    return found


class TestUrls:
    def test_host_port_database_and_login(self) -> None:
        found = target("redis://me:se%40cret@db.example:7000/3")
        assert (found.arguments["host"], found.arguments["port"], found.db) == ("db.example", 7000, 3)
        assert (found.arguments["username"], found.arguments["password"]) == ("me", "se@cret")
        assert found.arguments["socket_timeout"] == 2.5
        assert found.shown == "redis://me:***@db.example:7000/3"

    def test_what_is_left_out(self) -> None:
        found = target("redis://")
        assert (found.arguments["host"], found.arguments["port"], found.db) == ("localhost", 6379, 0)

    @pytest.mark.parametrize("scheme", ["redis+socket", "unix", "socket"])
    def test_sockets(self, scheme: str) -> None:
        found = target(f"{scheme}:///run/x.sock?virtual_host=2")
        assert (found.arguments["path"], found.db) == ("/run/x.sock", 2)

    def test_several_hosts(self) -> None:
        addresses = parse("sentinel://:secret@a:1/4;sentinel://b;c:3")
        assert [address.place for address in addresses] == [("a", 1), ("b", 26379), ("c", 3)]
        assert (addresses[0].db, addresses[0].password) == (4, "secret")

    def test_ipv6(self) -> None:
        assert parse("redis://:secret@[::1]:7000/1")[0].place == ("::1", 7000)

    def test_parameters(self) -> None:
        found = target("redis://host?socket_timeout=9&client_name=me&db=5", socket_timeout=1)
        assert (found.arguments["socket_timeout"], found.arguments["client_name"], found.db) == (9, "me", 5)

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("amqp://host", "begins with one of redis://"),
            ("redis://host/database", "a number is needed"),
            ("redis+socket://", "a path is needed"),
            ("redis://host:port/0", "no port"),
            ("redis://host?sockettimeout=3", "Did you mean socket_timeout"),
            ("redis://host?socket_timeout=soon", "a number of seconds"),
            ("redis://a;sentinel://b", "mixes"),
            ("redis+cluster://host/2", "a cluster has 0 alone"),
        ],
    )
    def test_what_cannot_be_read(self, url: str, why: str) -> None:
        with pytest.raises(errors.ImproperlyConfigured, match=why):
            RedisServer(url, timeout=1)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:hidden@host:port",
            "redis://:hid/hidden@host",
            "redis://:hid?hidden@host",
            "redis://:6?hidden@host",
            "redis://:hid#hidden@host",
            "redis://me:hid@hidden@host:x",
            "redis://:hid;hidden@host",
            "redis://host?password=hidden&x=1",
            "redis+socket:///x.sock?password=hidden&x=1",
        ],
    )
    def test_no_part_of_a_password_is_shown(self, url: str) -> None:
        with pytest.raises(errors.ImproperlyConfigured) as caught:
            RedisServer(url, timeout=1)
        assert "hid" not in str(caught.value)
        assert "hid" not in mask(url)

    def test_a_url_without_password_is_shown_as_it_is(self) -> None:
        for url in ("redis://me@host:1/0", "redis://[::1]:7000/1?db=2", "sentinel://a:1;sentinel://b:2"):
            assert mask(url) == url


class TestOptions:
    def test_those_of_connections(self) -> None:
        found = target("redis://host", socket_timeout=9, socket_connect_timeout=3, client_name="me").arguments
        assert (found["socket_timeout"], found["socket_connect_timeout"], found["client_name"]) == (9, 3, "me")
        assert "priority_steps" not in target("redis://host", priority_steps=[0]).arguments

    def test_keepalive_is_on_unless_it_is_switched_off(self) -> None:
        usual = target("redis://host").arguments
        assert usual["socket_keepalive"] is True
        assert usual["socket_keepalive_options"][socket.TCP_KEEPINTVL] == 5
        assert target("redis://host", socket_keepalive=False).arguments["socket_keepalive"] is False
        own = target("redis://host", socket_keepalive_options={socket.TCP_KEEPCNT: 9}).arguments
        assert own["socket_keepalive_options"] == {socket.TCP_KEEPCNT: 9}

    def test_the_page_on_redis_has_them_all(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "redis.md").read_text()
        assert [name for name in (*OPTIONS, *TLS_OPTIONS) if f"`{name}`" not in page] == []

    @pytest.mark.parametrize(
        ("options", "kind", "why"),
        [
            ({"sokcet_timeout": 3}, errors.UnknownSetting, "Did you mean socket_timeout"),
            ({"zebra": 3}, errors.UnknownSetting, "there are ack_emulation"),
            ({"socket_timeout": "3"}, errors.InvalidSetting, "a number of seconds above 0"),
            ({"socket_timeout": 0}, errors.InvalidSetting, "a number of seconds above 0"),
            ({"socket_keepalive": 1}, errors.InvalidSetting, "True or False"),
            ({"max_connections": True}, errors.InvalidSetting, "a whole number from 1 on"),
            ({"global_keyprefix": 3}, errors.InvalidSetting, "a text"),
            ({"priority_steps": [0, -1]}, errors.InvalidSetting, "a list of whole numbers"),
            ({"sentinel_kwargs": {"pasword": "x"}}, errors.UnknownSetting, "Did you mean password"),
            ({"sentinel_kwargs": {"sep": "x"}}, errors.UnknownSetting, "nothing to a Sentinel"),
            ({"password": 3}, errors.InvalidSetting, "is no text"),
            ({"sentinel_kwargs": "hidden"}, errors.InvalidSetting, "is of the type str; a dictionary"),
        ],
    )
    def test_wrong_ones(self, options: dict[str, Any], kind: type[Exception], why: str) -> None:
        with pytest.raises(kind, match=why) as caught:
            RedisServer("sentinel://host", timeout=1, options={"master_name": "m", **options})
        assert "broker_transport_options" in str(caught.value)

    def test_a_name_is_needed_for_sentinel(self) -> None:
        with pytest.raises(errors.ImproperlyConfigured, match="'master_name': 'mymaster'"):
            RedisServer("sentinel://host", timeout=1)

    @pytest.mark.parametrize("prefix", ["", "shop", "{}shop", "}shop{", "shop{"])
    def test_a_cluster_needs_a_prefix_with_a_tag(self, prefix: str) -> None:
        with pytest.raises(errors.ImproperlyConfigured, match=r"'global_keyprefix': '\{shop\}'"):
            RedisServer("redis+cluster://host", timeout=1, options={"global_keyprefix": prefix})

    def test_a_credential_provider(self) -> None:
        provider = UsernamePasswordCredentialProvider("me", "secret")
        arguments = target("redis://host", credential_provider=provider, password="x").arguments
        assert arguments == {**target("redis://host").arguments, "credential_provider": provider}
        path = "redis.credentials.UsernamePasswordCredentialProvider"
        found = target(f"redis://host?credential_provider={path}").arguments["credential_provider"]
        assert isinstance(found, UsernamePasswordCredentialProvider)
        for wrong in ("nowhere.Provider", "json.JSONDecoder", "x", 3):
            with pytest.raises(errors.ImproperlyConfigured, match="credential provider"):
                target("redis://host", credential_provider=wrong)


class TestTls:
    def test_by_the_url(self) -> None:
        found = target("rediss://host:6380/0?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=/ca.pem")
        assert found.tls
        assert (found.arguments["ssl_cert_reqs"], found.arguments["ssl_check_hostname"]) == ("none", False)
        assert found.arguments["ssl_ca_certs"] == "/ca.pem"

    @pytest.mark.parametrize("given", [ssl.CERT_REQUIRED, "required", "CERT_REQUIRED", 2])
    def test_by_the_setting(self, given: object) -> None:
        settings = {"broker_use_ssl": {"ssl_cert_reqs": given, "ssl_certfile": "/me.pem"}}
        found = target_of(broker_server(BrokerConfig(url="redis://host", settings=settings)))
        assert found.tls
        assert (found.arguments["ssl_cert_reqs"], found.arguments["ssl_certfile"]) == ("required", "/me.pem")

    def test_true_is_enough_and_certificates_are_looked_at(self) -> None:
        found = target_of(broker_server(BrokerConfig(url="redis://host", settings={"broker_use_ssl": True})))
        assert found.tls
        assert found.connection().cert_reqs == ssl.CERT_REQUIRED
        assert not target_of(broker_server(BrokerConfig(url="redis://host", settings={"broker_use_ssl": False}))).tls

    @pytest.mark.parametrize(
        ("url", "given", "why"),
        [
            ("redis://host", {"keyfile": "/k"}, "Did you mean ssl_keyfile"),
            ("redis://host", {"ssl_cert_reqs": "maybe"}, "required, optional and none"),
            ("redis://host", "yes", "True or a dictionary"),
            ("redis://host", {"ssl_ca_certs": 3}, "a text"),
            ("redis://host?ssl_cert_reqs=none", None, "rediss://"),
            ("redis+socket:///x", True, "no TLS"),
        ],
    )
    def test_wrong_ones(self, url: str, given: object, why: str) -> None:
        with pytest.raises(errors.ImproperlyConfigured, match=why):
            broker_server(BrokerConfig(url=url, settings={"broker_use_ssl": given}))


class TestSettingsOfTheBackend:
    def server(self, url: str = "redis://", options: dict[str, Any] | None = None, **settings: Any) -> RedisServer:
        return backend_server(BackendConfig(url=url, options=options or {}, settings=settings))

    def test_they_fill_what_the_url_leaves_out(self) -> None:
        settings: dict[str, Any] = {
            "redis_host": "h", "redis_port": 7, "redis_db": 3, "redis_username": "me", "redis_password": "secret",
            "redis_socket_timeout": 9.0, "redis_socket_connect_timeout": 2.0, "redis_client_name": "x",
            "redis_socket_keepalive": False,
        }  # fmt: skip
        found = target_of(self.server(**settings)).arguments
        assert [found[name] for name in ("host", "port", "db", "username", "password")] == ["h", 7, 3, "me", "secret"]
        assert [found[name] for name in ("socket_timeout", "socket_connect_timeout")] == [9.0, 2.0]
        assert (found["client_name"], found["socket_keepalive"]) == ("x", False)
        said = target_of(self.server("redis://you:pass@there:8/4", **settings)).arguments
        assert [said[name] for name in ("host", "port", "db", "username", "password")] == ["there", 8, 4, "you", "pass"]

    def test_transport_options_go_before_settings(self) -> None:
        found = self.server(options={"socket_timeout": 3, "global_keyprefix": "p:"}, redis_socket_timeout=9.0)
        assert target_of(found).arguments["socket_timeout"] == 3
        assert found.prefix == "p:"

    def test_an_unknown_option_names_its_setting(self) -> None:
        with pytest.raises(errors.UnknownSetting, match="result_backend_transport_options"):
            self.server(options={"global_key_prefix": "p:"})

    def test_tls(self) -> None:
        assert target_of(self.server(redis_backend_use_ssl={"ssl_cert_reqs": "none"})).tls
        with pytest.raises(errors.UnknownSetting, match="redis_backend_use_ssl"):
            self.server(redis_backend_use_ssl={"certfile": "x"})

    @pytest.mark.parametrize(("name", "value"), [("redis_port", 70000), ("redis_db", -1), ("redis_max_connections", 0)])
    def test_numbers_out_of_range(self, name: str, value: int) -> None:
        with pytest.raises(errors.InvalidSetting, match=name):
            backend_server(BackendConfig(url="redis://", settings={name: value}))
