"""TLS: what the settings and a URL's parameters say of certificates."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

from kernel import errors
from kernel_lib_redis.options import checked_tls

_REQUIREMENTS: Final[Mapping[object, str]] = {
    "none": "none",
    "optional": "optional",
    "required": "required",
    "cert_none": "none",
    "cert_optional": "optional",
    "cert_required": "required",
    ssl.CERT_NONE: "none",
    ssl.CERT_OPTIONAL: "optional",
    ssl.CERT_REQUIRED: "required",
}
_VERSIONS: Final[Mapping[object, ssl.TLSVersion]] = {
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
    "tlsv1_2": ssl.TLSVersion.TLSv1_2,
    "tlsv1_3": ssl.TLSVersion.TLSv1_3,
}


def tls_arguments(given: object, setting: str, *, wanted: bool, of_url: Mapping[str, Any]) -> dict[str, Any] | None:
    """What redis-py's `SSLConnection` is made with; None for no TLS.

    `given` is the value of `setting`: True, a dictionary of ``ssl_...`` options, or nothing. `wanted` says that the URL
    asks for TLS, and `of_url` what it says of it; that goes before. The server's certificate is verified unless
    ``ssl_cert_reqs`` says otherwise. Raises `InvalidSetting` and `UnknownSetting`.
    """
    if isinstance(given, str):
        # From an environment variable.
        given = {"true": True, "false": False}.get(given.lower(), given)
    if given is not None and not isinstance(given, bool | Mapping):
        raise errors.InvalidSetting(
            f"{setting} is {given!r}; True or a dictionary is needed, such as {{'ssl_ca_certs': '/path/to/ca.pem'}}"
        )
    if not given and not isinstance(given, Mapping) and not wanted:
        if of_url:
            raise errors.ImproperlyConfigured(
                f"the URL has {', '.join(of_url)}, and does not ask for TLS; it begins with rediss:// then"
            )
        return None
    options: dict[str, Any] = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    options.update(checked_tls(given, setting) if isinstance(given, Mapping) else {})
    options.update(of_url)
    options["ssl_cert_reqs"] = _requirement(options["ssl_cert_reqs"], setting)
    if options["ssl_cert_reqs"] == "none":
        # A name cannot be checked in a certificate that is not looked at.
        options["ssl_check_hostname"] = False
    if "ssl_min_version" in options:
        options["ssl_min_version"] = _version(options["ssl_min_version"], setting)
    return {name: value for name, value in options.items() if value is not None}


def _requirement(value: object, setting: str) -> str:
    key = "none" if value is None else value.lower() if isinstance(value, str) else value
    if not isinstance(key, str | int) or key not in _REQUIREMENTS:
        raise errors.InvalidSetting(
            f"ssl_cert_reqs is {value!r} (in {setting} or the URL); it is one of required, optional and none"
        )
    return _REQUIREMENTS[key]


def _version(value: object, setting: str) -> ssl.TLSVersion:
    if isinstance(value, ssl.TLSVersion):
        return value
    key = value.lower() if isinstance(value, str) else value
    if not isinstance(key, str) or key not in _VERSIONS:
        raise errors.InvalidSetting(
            f"ssl_min_version is {value!r} (in {setting} or the URL); it is TLSv1.2, TLSv1.3 or an ssl.TLSVersion"
        )
    return _VERSIONS[key]
