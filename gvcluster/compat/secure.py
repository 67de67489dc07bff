"""The ssl arguments → our tls options."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "ssl_ca_certs": "tls_ca_file",
        "ssl_certfile": "tls_cert_file",
        "ssl_keyfile": "tls_key_file",
        "ssl_password": "tls_key_password",
    }
)
# What only a context of one's own can say.
_FOR_A_CONTEXT = ("ssl_ca_data", "ssl_ca_path", "ssl_ciphers", "ssl_include_verify_flags", "ssl_exclude_verify_flags")
SECURE = frozenset((*_RENAMED, *_FOR_A_CONTEXT, "ssl", "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version"))


def secure_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for theirs; none without `ssl`.

    Certificates and names are checked unless the arguments say otherwise, also where an old version of the library
    does not check names by itself.
    """
    if not given.get("ssl"):
        return {}
    dangers = _dangers(given)
    if any(given.get(name) for name in _FOR_A_CONTEXT):
        return {"tls": _context(given, dangers), **dangers}
    options: dict[str, Any] = {ours: given[name] for name, ours in _RENAMED.items() if given.get(name) is not None}
    if given.get("ssl_min_version") is not None:
        options["tls_minimum_version"] = ssl.TLSVersion(given["ssl_min_version"]).name.replace("_", ".")
    return {"tls": True, **options, **dangers}


def _dangers(given: Mapping[str, Any]) -> dict[str, bool]:
    """What is not to be checked, because the arguments say so in as many words."""
    wanted = given.get("ssl_cert_reqs", "required")
    if wanted in ("none", ssl.CERT_NONE, None):
        return {"danger_accept_invalid_certificates": True}
    # A query string's values are words.
    if str(given.get("ssl_check_hostname", True)).lower() in ("false", "no", "0"):
        return {"danger_accept_invalid_hostnames": True}
    return {}


def _context(given: Mapping[str, Any], dangers: Mapping[str, bool]) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=given.get("ssl_ca_certs"), capath=given.get("ssl_ca_path"), cadata=given.get("ssl_ca_data")
    )
    context.minimum_version = ssl.TLSVersion(given.get("ssl_min_version") or ssl.TLSVersion.TLSv1_2)
    context.check_hostname = not dangers
    if "danger_accept_invalid_certificates" in dangers:
        context.verify_mode = ssl.CERT_NONE
    _refine(context, given)
    return context


def _refine(context: ssl.SSLContext, given: Mapping[str, Any]) -> None:
    if given.get("ssl_ciphers"):
        context.set_ciphers(given["ssl_ciphers"])
    for flag in given.get("ssl_include_verify_flags") or ():
        context.verify_flags |= flag
    for flag in given.get("ssl_exclude_verify_flags") or ():
        context.verify_flags &= ~flag
    if given.get("ssl_certfile"):
        context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"), given.get("ssl_password") or "")
