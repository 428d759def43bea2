"""TLS with a real server: who is trusted, who is not, and what is said of it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kernel_lib_amqp.settings import broker_server

from kernel import errors
from kernel.interfaces.broker import BrokerConfig
from kernel.testing.rabbitmq import RabbitProcess, rabbitmq_server
from kernel.testing.redis_servers import Certificates, certificates


@dataclass(frozen=True, slots=True)
class Secured:
    server: RabbitProcess
    certificates: Certificates

    @property
    def url(self) -> str:
        assert self.server.tls_url is not None
        return self.server.tls_url


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = certificates(tmp_path_factory.mktemp("certificates"))
    # It speaks to those alone who show a certificate that it trusts.
    with rabbitmq_server(tls=made, ssl_options__fail_if_no_peer_cert="true") as server:
        yield Secured(server, made)


def connect(url: str, **tls: Any) -> bool:
    """Whether it can: with an open connection, and then with none."""
    server = broker_server(BrokerConfig(url=url, timeout=5.0, settings={"broker_use_ssl": tls or True}))
    with contextlib.closing(server.connect()) as wire:
        return wire is not None


def test_a_certificate_is_the_login(secured: Secured) -> None:
    server, known = secured.server, {"ca_certs": str(secured.certificates.authority), **own(secured.certificates)}
    plugins = server.folder / "plugins"
    plugins.write_text("[rabbitmq_auth_mechanism_ssl].")
    if not server.evaluate(f'rabbit_plugins:ensure("{plugins}")').startswith("{ok,"):
        pytest.skip("this RabbitMQ is installed without its plugin rabbitmq_auth_mechanism_ssl")
    for name, value in (("auth_mechanisms", "['PLAIN', 'EXTERNAL']"), ("ssl_cert_login_from", "common_name")):
        assert server.evaluate(f"application:set_env(rabbit, {name}, {value})") == "ok"
    broker = broker_server(
        BrokerConfig(
            url=secured.url.replace("guest:guest@", ""),
            timeout=5.0,
            settings={"broker_use_ssl": known, "broker_login_method": "EXTERNAL"},
        )
    )
    with pytest.raises(errors.ImproperlyConfigured, match=r"refused the login by certificate.*certfile"):
        broker.connect()
    # The name in the certificate.
    user = '<<"localhost">>'
    server.evaluate(f'rabbit_auth_backend_internal:add_user({user}, <<"unused">>, <<"tests">>)')
    server.evaluate(
        f'rabbit_auth_backend_internal:set_permissions({user}, <<"/">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)'
    )
    with contextlib.closing(broker.connect()):
        users = server.evaluate(
            "[rabbit_networking:connection_info(P, [user, auth_mechanism]) || P <- rabbit_networking:connections()]"
        )
    assert users == '[[{user,<<"localhost">>},{auth_mechanism,<<"EXTERNAL">>}]]'


def own(made: Certificates) -> dict[str, str]:
    return {"certfile": str(made.certificate), "keyfile": str(made.key)}


def test_both_sides_trust_each_other(secured: Secured) -> None:
    known = {"ca_certs": str(secured.certificates.authority), **own(secured.certificates)}
    assert connect(secured.url, **known)
    assert connect(secured.url.replace("127.0.0.1", "localhost"), cert_reqs="CERT_REQUIRED", **known)
    assert connect(secured.url.replace("amqps://", "amqp://"), **known)
    assert connect(secured.url, cert_reqs=ssl.CERT_NONE, **own(secured.certificates))


def test_a_server_that_is_not_trusted(secured: Secured) -> None:
    with pytest.raises(errors.ImproperlyConfigured, match=r"certificate of amqps.* cannot be trusted.*ca_certs"):
        connect(secured.url, **own(secured.certificates))
    stranger = str(secured.certificates.stranger)
    with pytest.raises(errors.ImproperlyConfigured, match=r"cannot be trusted") as caught:
        connect(secured.url, ca_certs=stranger, **own(secured.certificates))
    assert "guest:guest" not in str(caught.value)
    with pytest.raises(errors.ImproperlyConfigured, match=r"cannot be trusted.*elsewhere"):
        connect(secured.url, ca_certs=str(secured.certificates.authority), server_hostname="elsewhere")


def test_a_client_that_is_not_trusted(secured: Secured) -> None:
    made = secured.certificates
    authority, stranger = str(made.authority), str(made.stranger)
    # Its alert may be overtaken by the end of the connection.
    refused = (errors.ImproperlyConfigured, errors.OperationalError)
    with pytest.raises(refused, match=r"wants one|ended the connection") as caught:
        connect(secured.url, ca_certs=authority)
    assert "certfile and keyfile" in str(caught.value)
    with pytest.raises(refused, match=r"refused our certificate|ended the connection"):
        connect(secured.url, ca_certs=authority, certfile=stranger, keyfile=str(made.stranger.with_suffix(".key")))
    with pytest.raises(errors.ImproperlyConfigured, match="the key that belongs to it"):
        connect(secured.url, ca_certs=authority, certfile=stranger, keyfile=str(made.key))


def test_the_wrong_kind_of_port(secured: Secured) -> None:
    plain = secured.server.url
    with pytest.raises(errors.OperationalError, match="speaks no TLS"):
        connect(plain.replace("amqp://", "amqps://"), ca_certs=str(secured.certificates.authority))
    with pytest.raises(errors.OperationalError, match="cannot connect"):
        broker_server(BrokerConfig(url=secured.url.replace("amqps://", "amqp://"), timeout=5.0)).connect()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("yes", "True or a dictionary"),
        ({"ssl_ca_certs": "/ca.pem"}, "it takes ca_certs"),
        ({"ca_certs": "/no/such.pem"}, "no such file"),
        ({"keyfile": __file__}, "without a certfile"),
        ({"cert_reqs": "perhaps"}, "required, optional and none"),
    ],
)
def test_settings_that_are_wrong(given: Any, why: str) -> None:
    with pytest.raises(errors.InvalidSetting, match=why):
        broker_server(BrokerConfig(url="amqps://host", settings={"broker_use_ssl": given}))


def test_settings_come_to_the_server(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    settings = {"broker_use_ssl": {"ca_certs": str(authority), "cert_reqs": 0}, "broker_heartbeat": 7.0}
    server = broker_server(BrokerConfig(url="amqp://host", settings=settings))
    assert server.targets[0].port == 5671
    assert server.targets[0].tls == {"ca_certs": str(authority), "cert_reqs": ssl.CERT_NONE, "server_hostname": None}
    assert server.heartbeat == 7.0
    assert broker_server(BrokerConfig(url="amqp://h?heartbeat=3", settings=settings)).heartbeat == 3.0
    assert broker_server(BrokerConfig(url="amqp://h", options={"heartbeat": 4}, settings=settings)).heartbeat == 4.0
    assert broker_server(BrokerConfig(url="amqp://h")).targets[0].tls is None
    for name in ("broker_login_method", "broker_failover_strategy"):
        with pytest.raises(errors.InvalidSetting, match="it is one of"):
            broker_server(BrokerConfig(url="amqp://h", settings={name: "nonsense"}))


def test_hosts_are_tried_in_their_order_or_shuffled() -> None:
    urls = ";".join(f"amqp://127.0.0.1:{port}//" for port in range(1, 7))
    assert broker_server(BrokerConfig(url=urls))._order() == [0, 1, 2, 3, 4, 5]
    shuffled = broker_server(BrokerConfig(url=urls, settings={"broker_failover_strategy": "shuffle"}))
    orders = [shuffled._order() for _ in range(50)]
    assert all(sorted(order) == [0, 1, 2, 3, 4, 5] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
