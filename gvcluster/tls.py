"""What the tls options mean: the context, which name a node's certificate must bear, and what a failure tells you."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING

from gvcluster.checks import one_of
from gvcluster.core.address import Address
from gvcluster.core.topology import Node
from gvcluster.errors import ConfigError
from gvcluster.options import Options
from gvcluster.records import Record

if TYPE_CHECKING:
    import ssl  # and where it is used: to load OpenSSL takes longer than the whole of gvcluster

ServerName = str | Callable[[Address], str | None] | None

_VERSIONS = MappingProxyType({"TLSv1.2": "TLSv1_2", "TLSv1.3": "TLSv1_3"})  # names in ssl.TLSVersion
_FILES = ("tls_ca_file", "tls_cert_file", "tls_key_file", "tls_key_password")
_TEXTS = (*_FILES, "tls_minimum_version")
_DANGERS = ("danger_accept_invalid_hostnames", "danger_accept_invalid_certificates")

# What OpenSSL says of a certificate (X509_V_ERR_… in openssl/x509_vfy.h): not for this name, this mail or this IP
# address; not yet or no longer valid.
_OTHER_NAME, _OTHER_TIME = frozenset({62, 63, 64}), frozenset({9, 10})

# Marks in OpenSSL's reasons (openssl/sslerr.h; alerts are spelled differently since OpenSSL 3.2), and what is behind.
_EXPLANATIONS = (
    (("WRONG_VERSION", "RECORD_LAYER", "PACKET_LENGTH"), "what it sends is not TLS: is this a port without TLS?"),
    (("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"), "no TLS version suits both sides: see tls_minimum_version"),
    (
        ("ALERT_CERT", "ALERT_BAD_CERT", "ALERT_UNSUPPORTED_CERT", "ALERT_UNKNOWN_CA", "ALERT_HANDSHAKE_FAILURE"),
        "it wants a client certificate, or refuses this one: see tls_cert_file",
    ),
)


class Tls(Record):
    """How the connections of a cluster are made secure: all of them, whoever named the node."""

    context: ssl.SSLContext
    server_name: ServerName = None

    def name_of(self, address: Address, node: Node | None) -> str:
        """The name or IP address that the certificate of a node must bear.

        The first of these that there is: what `tls_server_name` says; the host of the address, if it is a name; the
        hostname that the slot map tells beside an IP address; the IP address itself.

        Args:
            address: where the connection leads to.
            node: what the slot map says of it, None before there is one or if it is not in it.
        """
        told = self.server_name(address) if callable(self.server_name) else self.server_name
        if told is not None:
            return told
        if node is not None and node.hostname and _is_ip(address.host):
            return node.hostname
        return address.host


def tls_from(options: Options) -> Tls | None:
    """Check the tls options and make what they describe; None for no TLS. Reads the files that they name.

    Raises:
        ConfigError: they contradict each other, or a file can not be used. No password is shown.
    """
    _check_values(options)
    if options.tls is False:
        _refuse(options, (*_TEXTS, "tls_server_name", *_DANGERS), "needs tls=True")
        return None
    if options.tls is True:
        return Tls(_made_for(options), options.tls_server_name)
    return Tls(_checked(options.tls, options), options.tls_server_name)


def explain(error: OSError, address: Address, name: str) -> str:
    """Say what went wrong with TLS at a node, and what can be done."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, address, name)
    reason = getattr(error, "reason", None) or ""
    for marks, text in _EXPLANATIONS:
        if any(mark in reason for mark in marks):
            return f"{text} ({reason})"
    return str(error) or type(error).__name__


def _explain_certificate(error: ssl.SSLCertVerificationError, address: Address, name: str) -> str:
    if error.verify_code in _OTHER_NAME:
        return (
            f"its certificate is not for {name!r}: use the name that it bears in the seeds or as announced hostname, "
            f"or set tls_server_name. To see its names: openssl s_client -connect {address} </dev/null | "
            "openssl x509 -noout -ext subjectAltName"
        )
    if error.verify_code in _OTHER_TIME:
        return f"its certificate is out of date ({error.verify_message}): renew it, or set this machine's clock"
    return f"its certificate is not trusted ({error.verify_message}): check tls_ca_file"


def _is_ip(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_values(options: Options) -> None:
    if not isinstance(options.tls, bool) and not _is_context(options.tls):
        raise ConfigError(f"tls must be True, False or an ssl.SSLContext, not {type(options.tls).__name__}")
    for name in _DANGERS:
        if not isinstance(getattr(options, name), bool):
            raise ConfigError(f"{name} must be True or False")
    if not callable(options.tls_server_name):
        _text("tls_server_name", options.tls_server_name)
    for name in _TEXTS:
        _text(name, getattr(options, name))
    if options.tls_minimum_version is not None:
        one_of("tls_minimum_version", options.tls_minimum_version, tuple(_VERSIONS))


def _is_context(value: object) -> bool:
    """Whether it is a context: the standard library's, or gevent's."""
    from _ssl import _SSLContext

    return isinstance(value, _SSLContext)


def _made_for(options: Options) -> ssl.SSLContext:
    """A context that checks everything, but for what the options call dangerous."""
    import ssl

    try:
        context = ssl.create_default_context(cafile=options.tls_ca_file)
    except OSError as error:
        raise ConfigError(f"tls_ca_file {options.tls_ca_file!r} can not be used: {error}") from error
    context.minimum_version = _least_version(options)
    if options.danger_accept_invalid_hostnames or options.danger_accept_invalid_certificates:
        context.check_hostname = False
    if options.danger_accept_invalid_certificates:
        context.verify_mode = ssl.CERT_NONE
    _load_certificate(context, options)
    return context


def _load_certificate(context: ssl.SSLContext, options: Options) -> None:
    if options.tls_cert_file is None:
        if options.tls_key_file is not None or options.tls_key_password is not None:
            raise ConfigError("tls_key_file and tls_key_password need tls_cert_file")
        return
    try:
        # Without any password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(options.tls_cert_file, options.tls_key_file, options.tls_key_password or "")
    except OSError as error:
        raise ConfigError(f"tls_cert_file {options.tls_cert_file!r}, or its key, can not be used: {error}") from error


def _checked(context: ssl.SSLContext, options: Options) -> ssl.SSLContext:
    """A user's own context, which is used as it is or not at all."""
    import ssl

    _refuse(options, _FILES, "is for tls=True: load it into your own context")
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ConfigError("the context is for servers: make it with ssl.create_default_context()")
    least, lowest = _least_version(options), context.minimum_version
    unchosen = [ssl.TLSVersion.MAXIMUM_SUPPORTED]
    if options.tls_minimum_version is None:  # Debian's Python makes all contexts so, and leaves it to OpenSSL
        unchosen.append(ssl.TLSVersion.MINIMUM_SUPPORTED)
    if lowest < least and lowest not in unchosen:
        raise ConfigError(f"the context allows {lowest.name}: set its minimum_version to TLSVersion.{least.name}")
    trusts_all = options.danger_accept_invalid_certificates
    if trusts_all == (context.verify_mode == ssl.CERT_REQUIRED):
        raise _contradiction("verify_mode", "danger_accept_invalid_certificates", trusts_all)
    takes_any_name = options.danger_accept_invalid_hostnames or trusts_all
    if takes_any_name == context.check_hostname:
        raise _contradiction("check_hostname", "danger_accept_invalid_hostnames", takes_any_name)
    return context


def _least_version(options: Options) -> ssl.TLSVersion:
    import ssl

    return ssl.TLSVersion[_VERSIONS[options.tls_minimum_version or "TLSv1.2"]]


def _contradiction(attribute: str, danger: str, is_wanted: bool) -> ConfigError:
    if is_wanted:
        return ConfigError(f"{danger} is set, but the context's {attribute} says otherwise")
    return ConfigError(f"the context's {attribute} does not check whom it talks to: only {danger}=True allows that")


def _refuse(options: Options, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, False):
            raise ConfigError(f"{name} {why}")


def _text(name: str, value: object) -> None:
    """None, or a str that is not empty. It is never shown: it may be secret."""
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise ConfigError(f"{name} must be a str that is neither empty nor has a NUL in it")
