"""Which cluster is meant, and how to connect to it: the options that all of these commands have."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar, cast

import click

from gvcluster.cluster import Cluster
from gvcluster.core.address import Address
from gvcluster.errors import ConfigError
from gvcluster.options import ClusterOptions, Options, options_from
from gvcluster.seeds import parse_seeds, parse_url

SEEDS, USERNAME, PASSWORD = "GVCLUSTER_SEEDS", "GVCLUSTER_USERNAME", "GVCLUSTER_PASSWORD"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Connection(TypedDict):
    """What click makes of the common options."""

    seeds: str | None
    tls: bool
    ca: str | None
    cert: str | None
    key: str | None
    server_name: str | None
    user: str | None
    password_stdin: bool
    timeout: float | None
    connect_timeout: float | None


@dataclass(frozen=True)
class Target:
    """A cluster as the user has named it. `given` is what `Cluster` is told, `options` what follows from it."""

    seeds: tuple[Address, ...]
    given: ClusterOptions
    options: Options

    def cluster(self) -> Cluster:
        """A client of it, not connected yet.

        Raises:
            click.UsageError: The files of a certificate are none, or do not belong together.
        """
        try:
            return Cluster(self.seeds, **self.given)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None


def connection_options(command: _Command) -> _Command:
    """Give a click command the common options."""
    above_zero = click.FloatRange(min=0, min_open=True, max=3600)
    file = click.Path(exists=True, dir_okay=False)
    for option in reversed(
        (
            click.option("-s", "--seeds", metavar="H:P,…", help=f"Some of the nodes, or a URL (or in {SEEDS})."),
            click.option("--tls", is_flag=True, help="Connect by TLS."),
            click.option("--ca", type=file, help="The CAs to trust, as PEM; means --tls."),
            click.option("--cert", type=file, help="A client certificate, as PEM; means --tls."),
            click.option("--key", type=file, help="Its key, where the file of --cert has none."),
            click.option("--server-name", metavar="NAME", help="The name that certificates bear; means --tls."),
            click.option("--user", metavar="NAME", help=f"Who you are (or in {USERNAME})."),
            click.option("--password-stdin", is_flag=True, help=f"Read the password from stdin (or from {PASSWORD})."),
            click.option("--timeout", type=above_zero, metavar="S", help="Seconds for a whole call [default: 10]."),
            click.option("--connect-timeout", type=above_zero, metavar="S", help="To connect [default: 2]."),
        )
    ):
        command = option(command)
    return command


def target_from(connection: Connection, named: str | None = None) -> Target:
    """What the common options say. `named`: the argument, where a command has one.

    Raises:
        click.UsageError: They make no sense. No password is shown.
    """
    text = _named(connection, named)
    try:
        seeds, given = parse_url(text) if "://" in text else (text, ClusterOptions())
        for told in (_tls(connection), _credentials(connection), _times(connection)):
            given.update(told)
        return Target(parse_seeds(seeds), given, options_from(given))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _named(connection: Connection, named: str | None) -> str:
    text = named or connection["seeds"]
    if text is not None and "://" in text and "@" in text:
        _warn(f"`ps` shows the password in the URL to everybody: better put it into {PASSWORD}")
    text = text or os.environ.get(SEEDS)
    if not text:
        raise click.UsageError(f"which cluster? Name some of its nodes as host:port, or set {SEEDS}")
    return text


def _tls(connection: Connection) -> ClusterOptions:
    named = {
        "tls_ca_file": connection["ca"],
        "tls_cert_file": connection["cert"],
        "tls_key_file": connection["key"],
        "tls_server_name": connection["server_name"],
    }
    told = {name: value for name, value in named.items() if value is not None}
    return cast(ClusterOptions, {"tls": True, **told} if told or connection["tls"] else {})


def _times(connection: Connection) -> ClusterOptions:
    told = {"timeout": connection["timeout"], "connect_timeout": connection["connect_timeout"]}
    return cast(ClusterOptions, {name: value for name, value in told.items() if value is not None})


def _credentials(connection: Connection) -> ClusterOptions:
    options = ClusterOptions()
    password = sys.stdin.readline().rstrip("\r\n") if connection["password_stdin"] else os.environ.get(PASSWORD)
    if connection["password_stdin"] and not password:
        raise click.UsageError("--password-stdin: the first line of standard input is empty")
    if password:
        options["password"] = password
    username = connection["user"] or os.environ.get(USERNAME)
    if username:
        options["username"] = username
    return options


def with_hint(text: str) -> str:
    """An error's text, and where to put the password if it is about that."""
    is_about_it = "NOAUTH" in text or "WRONGPASS" in text
    return f"{text}; the right password goes into {PASSWORD}" if is_about_it else text


def _warn(text: str) -> None:
    click.secho(f"warning: {text}", fg="yellow", err=True)
