"""TLS: what `broker_use_ssl` says of certificates."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kernel import errors

_OPTIONS: Final = ("ca_certs", "certfile", "keyfile", "cert_reqs", "ciphers", "server_hostname")
_FILES: Final = ("ca_certs", "certfile", "keyfile")
_REQUIREMENTS: Final[Mapping[object, ssl.VerifyMode]] = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
    "cert_none": ssl.CERT_NONE,
    "cert_optional": ssl.CERT_OPTIONAL,
    "cert_required": ssl.CERT_REQUIRED,
    0: ssl.CERT_NONE,
    1: ssl.CERT_OPTIONAL,
    2: ssl.CERT_REQUIRED,
}


def tls_options(given: object, host: str, *, wanted: bool) -> dict[str, Any] | None:
    """py-amqp's options for TLS; None for no TLS.

    `given` is True, a dictionary of ca_certs, certfile, keyfile, cert_reqs, ciphers, server_hostname, or nothing;
    `wanted` says that the URL asks for TLS. The server's certificate and name are verified unless ``cert_reqs`` says
    otherwise. Raises `InvalidSetting`.
    """
    if isinstance(given, str):
        # From an environment variable.
        given = {"true": True, "false": False}.get(given.lower(), given)
    if given is not None and not isinstance(given, bool | Mapping):
        raise errors.InvalidSetting(
            f"broker_use_ssl is {given!r}; True or a dictionary is needed, such as {{'ca_certs': '/path/to/ca.pem'}}"
        )
    if not given and not wanted:
        return None
    options = dict(given) if isinstance(given, Mapping) else {}
    unknown = sorted(str(name) for name in set(options) - set(_OPTIONS))
    if unknown:
        raise errors.InvalidSetting(f"broker_use_ssl has {', '.join(unknown)}; it takes {', '.join(_OPTIONS)}")
    options = {name: value for name, value in options.items() if value is not None or name == "cert_reqs"}
    _check_files(options)
    verify = _requirement(options.get("cert_reqs", ssl.CERT_REQUIRED))
    name = options.get("server_hostname", host if verify != ssl.CERT_NONE else None)
    return {**options, "cert_reqs": verify, "server_hostname": name}


def _check_files(options: Mapping[str, Any]) -> None:
    for name in _FILES:
        if name in options and not Path(options[name]).is_file():
            raise errors.InvalidSetting(f"broker_use_ssl: {name} is {options[name]!r}, and there is no such file")
    if "keyfile" in options and "certfile" not in options:
        raise errors.InvalidSetting("broker_use_ssl has a keyfile without a certfile; name the certificate too")


def _requirement(value: object) -> ssl.VerifyMode:
    key = "none" if value is None else value.lower() if isinstance(value, str) else value
    if isinstance(key, bool) or not isinstance(key, str | int) or key not in _REQUIREMENTS:
        raise errors.InvalidSetting(
            f"broker_use_ssl: cert_reqs is {value!r}; it is one of required, optional and none, or ssl.CERT_..."
        )
    return _REQUIREMENTS[key]
