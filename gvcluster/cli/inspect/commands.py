"""The click commands: what they take, what they print, how they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import strftime
from typing import Unpack

import click
import gevent
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gvcluster.cli.inspect import execute, overview, picture, prescription
from gvcluster.cli.inspect.doctor import examine
from gvcluster.cli.inspect.overview import Overview, look_around
from gvcluster.cli.inspect.survey import Progress as Told
from gvcluster.cli.inspect.target import Connection, connection_options, target_from, with_hint
from gvcluster.cli.signals import signals_to_this_greenlet
from gvcluster.cluster import Cluster
from gvcluster.errors import GvClusterError

_NO_MAP = 3
_NODES = "[H:P,…]"

_DOCTOR_EPILOG = """\b
exit codes:
  0    all is well, or notes only
  1    warnings: calls will fail on a bad day
  2    the arguments make no sense
  3    errors: calls fail now, or there is no cluster
"""
_TOPOLOGY_EPILOG = """\b
exit codes:
  0    every slot is served
  1    some slots are served by nobody
  2    the arguments make no sense
  3    nobody tells a slot map
"""
_EXEC_EPILOG = """\b
exit codes:
  0    the server has answered
  1    it has refused: an error reply
  2    the arguments make no sense; nothing was sent
  3    no reply, and the command was certainly not executed
  4    it may have been executed: no reply, or not from all nodes, or an error
       in the midst of a script

Whoever can run `ps` sees the arguments: give a secret with --stdin. The command is never repeated in the output.
"""


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run one of the commands; see `gvcluster.cli.inspect.run`."""
    command = {"topology": topology, "doctor": doctor, "exec": exec_}[name]
    try:
        # Not by its `main`, which has exit codes of its own for Ctrl-C and for a reader that has gone.
        with command.make_context(f"gvcluster {name}", list(arguments)) as context:
            code: int = command.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    return code


def _command(name: str, epilog: str) -> Callable[[Callable[..., int]], click.Command]:
    settings = {
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        # What follows the command to execute is its own: SET k -1.
        "allow_interspersed_args": name != "exec",
    }
    return click.command(name, epilog=epilog, context_settings=settings)


@_command("topology", _TOPOLOGY_EPILOG)
@click.argument("nodes", required=False, metavar=_NODES)
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=2.0, metavar="S", help="For --watch [default: 2]."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each look.")
@connection_options
def topology(nodes: str | None, watch: bool, interval: float, as_json: bool, **connection: Unpack[Connection]) -> int:
    """Show shards, slots, replicas, zones and versions of a cluster."""
    cluster = target_from(connection, nodes).cluster()
    try:
        with signals_to_this_greenlet():
            if watch:
                return _watch(cluster, interval, as_json)
            return _show_once(look_around(cluster), as_json)
    except GvClusterError as error:
        return _refuse("topology", error)
    finally:
        cluster.close()


@_command("doctor", _DOCTOR_EPILOG)
@click.argument("nodes", required=False, metavar=_NODES)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@connection_options
def doctor(nodes: str | None, as_json: bool, **connection: Unpack[Connection]) -> int:
    """Find out what is wrong with a cluster, and what to do about it.

    Every node that any node names is asked, and what they answer is compared. Nothing is written or changed. Give
    --timeout and the other options as your application has them: they are judged, too.
    """
    target = target_from(connection, nodes)
    with signals_to_this_greenlet(), _progress() as told:
        diagnosis = examine(target, told)
    console = _console()
    if as_json:
        print(json.dumps(prescription.as_json(diagnosis), ensure_ascii=False))
    elif console.is_terminal:
        prescription.show(console, diagnosis)
    else:
        print("\n".join(prescription.lines(diagnosis)))
    return int(diagnosis.severity)


@_command("exec", _EXEC_EPILOG)
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARG]…")
@click.option("--node", metavar="H:P", help="Send it to this node, and follow no redirect.")
@click.option("--raw", "form", flag_value="raw", help="The values as they are, as on a pipe.")
@click.option("--json", "form", flag_value="json", help="One line of JSON, errors too.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the last argument from standard input, to its end.")
@click.option("--explain", is_flag=True, help="Send nothing; say where it would go.")
@connection_options
def exec_(
    command: tuple[str, ...],
    node: str | None,
    form: str | None,
    from_stdin: bool,
    explain: bool,
    **connection: Unpack[Connection],
) -> int:
    """Send one command to the node that serves its key.

    A command without a key that concerns several nodes (DBSIZE, INFO …) goes to all of them. Options come before the
    command.
    """
    if from_stdin and connection["password_stdin"]:
        raise click.UsageError("--stdin and --password-stdin: standard input can be one of them")
    target = target_from(connection)
    words = execute.arguments_of(command, last_from_stdin=from_stdin)
    if execute.shows_secret(words) and not from_stdin:
        click.secho("warning: `ps` shows secrets among the arguments to everybody: use --stdin", fg="yellow", err=True)
    pages = "page" if execute.is_page(words) else "text"
    wish = execute.Wish(words, node, form or (pages if sys.stdout.isatty() else "raw"), explain)
    with signals_to_this_greenlet():
        return execute.run(target, wish)


def _show_once(look: Overview, as_json: bool) -> int:
    console = _console()
    if as_json:
        print(json.dumps(overview.as_json(look), ensure_ascii=False))
    elif console.is_terminal:
        console.print(picture.picture(look), soft_wrap=True)
    else:
        print("\n".join(picture.lines(look)))
    return 1 if look.uncovered else 0


def _watch(cluster: Cluster, interval: float, as_json: bool) -> int:
    """Look until Ctrl-C. A terminal has a picture that changes; a pipe gets all lines again when they have changed."""
    console = _console()
    try:
        if as_json or not console.is_terminal:
            _watch_lines(cluster, interval, as_json)
        else:
            _watch_picture(cluster, interval, console)
    except KeyboardInterrupt:
        pass  # the only way to end it
    return 0


def _watch_picture(cluster: Cluster, interval: float, console: Console) -> None:
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(picture.moment(strftime("%T"), *_try_look(cluster)), refresh=True)
            gevent.sleep(interval)


def _watch_lines(cluster: Cluster, interval: float, as_json: bool) -> None:
    before: list[str] = []
    while True:
        look, trouble = _try_look(cluster)
        if as_json:
            told = overview.as_json(look) if look is not None else {"error": trouble}
            print(json.dumps({"time": strftime("%FT%T%z"), **told}, ensure_ascii=False), flush=True)
        else:
            now = list(picture.lines(look)) if look is not None else [f"error: {trouble}"]
            if now != before:
                print("\n".join(f"{strftime('%T')} {line}" for line in now), flush=True)
            before = now
        gevent.sleep(interval)


def _try_look(cluster: Cluster) -> tuple[Overview | None, str]:
    try:
        return look_around(cluster), ""
    except GvClusterError as error:
        return None, str(error)


def _console() -> Console:
    """Standard output. NO_COLOR is rich's business."""
    return Console(highlight=False, markup=False)


@contextmanager
def _progress() -> Iterator[Told | None]:
    """A bar that goes away, on a terminal; it is on standard error, so that standard output can be a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("asking the nodes"), BarColumn(30), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, refresh=True)


def _refuse(name: str, error: GvClusterError) -> int:
    print(f"gvcluster {name}: {with_hint(str(error))}", file=sys.stderr)
    return _NO_MAP
