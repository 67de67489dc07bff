"""What a Garnet node answers about connections, itself and its commands: HELLO, AUTH, CLIENT, INFO, ROLE, COMMAND."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from gvcluster.errors import ReplyError
from gvcluster.testing.fake_server import echo, ping
from gvcluster.testing.garnet.command import Command, Raw, Table, verbatim

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.garnet.node import GarnetNode

GARNET_VERSION = "2.1.4"
_OK = "OK"
_WRONG_PAIR = "WRONGPASS Invalid username/password combination"
_WRONG_PASSWORD = "WRONGPASS Invalid password"
_NO_PASSWORDS = "ERR Client sent AUTH, but configured authenticator does not accept passwords"
# In one case only, else it is a syntax error.
_SETINFO = frozenset((b"LIB-NAME", b"lib-name", b"LIB-VER", b"lib-ver"))


def _hello(node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    refused = _refused_hello(node, connection, args)
    if refused is not None:
        return ReplyError(refused)
    connection.protocol = int(args[0]) if args else connection.protocol
    is_replica = node.config.mine.primary_id is not None or node.is_recovering
    return {
        b"server": b"redis",
        b"version": b"7.4.3",
        b"garnet_version": GARNET_VERSION.encode(),
        b"proto": connection.protocol,
        b"id": connection.number,
        b"mode": b"cluster",
        b"role": b"replica" if is_replica else b"master",
        b"modules": [],
    }


def _refused_hello(node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> str | None:
    """What is wrong with HELLO, else do what its options say. It needs no password, and a wrong one changes nothing."""
    version = b"".join(args[:1]) or b"2"
    if not version.isdigit():
        return "ERR Protocol version is not an integer or out of range."
    if not 2 <= int(version) <= node.cluster.highest_protocol:
        return "ERR Unsupported protocol version"
    options, name, login = list(args[1:]), connection.name, None
    while options:
        match [options[0].upper(), *options[1:]]:
            case [b"AUTH", user, password, *rest]:
                login, options = (user, password), rest
            case [b"SETNAME", named, *rest]:
                name, options = named, rest
            case [word, *_]:
                return f"ERR Syntax error in HELLO option '{word.decode('latin-1')}'"
    return _log_in(node, connection, login, name)


def _log_in(node: GarnetNode, connection: FakeConnection, login: tuple[bytes, bytes] | None, name: bytes) -> str | None:
    if login is not None and (node.cluster.password is None or login != _wanted(node, login[0])):
        return _WRONG_PAIR
    connection.authenticated = connection.authenticated or login is not None
    connection.name = name
    return None


def _wanted(node: GarnetNode, user: bytes) -> tuple[bytes, bytes]:
    """Who is let in. With `--auth Password` the name does not matter."""
    name = node.cluster.username.encode()
    return (user if name == b"default" else name), (node.cluster.password or "").encode()


def _auth(node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    if node.cluster.password is None:
        return ReplyError(_NO_PASSWORDS)
    login = (args[0], args[1]) if len(args) > 1 else (node.cluster.username.encode(), args[0])
    if login != _wanted(node, login[0]):
        return ReplyError(_WRONG_PAIR if len(args) > 1 else _WRONG_PASSWORD)
    connection.authenticated = True
    return _OK


def _client(node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    match [args[0].upper(), *args[1:]]:
        case [b"SETINFO", field, _]:
            return _OK if field in _SETINFO else ReplyError("ERR syntax error")
        case [b"SETNAME", name]:
            connection.name = name
            return _OK
        case [b"GETNAME"]:
            return connection.name
        case [b"ID"]:
            return connection.number
        case [b"LIST"]:
            return _listed(node.open_connections, connection)
        case [b"KILL", *_]:
            return node.reset_connections_but(connection)
    # No INFO and UNBLOCK here; NO-EVICT, NO-TOUCH, REPLY, TRACKING, CACHING, PAUSE and GETREDIR Garnet has not.
    return ReplyError(f"ERR unknown subcommand '{args[0].decode('latin-1')}'.")


def _listed(shown: Sequence[FakeConnection], asking: FakeConnection) -> Raw:
    told = "".join(f"id={each.number} name={each.name.decode()} resp={each.protocol}\n" for each in shown)
    return verbatim(told.encode(), asking.protocol)


def _select(_node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _OK if args[0] == b"0" else ReplyError("ERR SELECT is not allowed in cluster mode")


def _readonly(node: GarnetNode, connection: FakeConnection, _args: list[bytes]) -> object:
    node.session(connection).readwrite = False
    return _OK


def _readwrite(node: GarnetNode, connection: FakeConnection, _args: list[bytes]) -> object:
    node.session(connection).readwrite = True
    return _OK


def _asking(_node: GarnetNode, connection: FakeConnection, _args: list[bytes]) -> object:
    connection.asking = True
    return _OK


def _role(node: GarnetNode, _connection: FakeConnection, _args: list[bytes]) -> object:
    mine = node.config.mine
    if mine.primary_id is None:
        replicas = node.config.replicas_of(mine.id)
        return [b"master", node.offset, [[each.host.encode(), each.port, node.offset] for each in replicas]]
    primary = node.config.workers[mine.primary_id]
    state = b"sync" if node.is_recovering else b"connected"
    return [b"slave", primary.host.encode(), primary.port, state, node.offset]


def _info(node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    sections = [section.decode().lower() for section in args] or ["server", "replication"]
    told = {"server": _about_server, "replication": _about_replication}
    text = "".join(_section(name, told[name](node)) for name in sections if name in told)
    return verbatim(text.encode(), connection.protocol)


def _section(name: str, fields: dict[str, object]) -> str:
    lines = "".join(f"{field}:{value}\r\n" for field, value in fields.items())
    return f"# {name.capitalize()}\r\n{lines}\r\n"


def _about_server(node: GarnetNode) -> dict[str, object]:
    return {
        "redis_version": "7.4.3",
        "garnet_version": GARNET_VERSION,
        "server_name": "garnet",
        "redis_mode": "cluster",
        "run_id": node.run_id,
    }


def _about_replication(node: GarnetNode) -> dict[str, object]:
    mine, config = node.config.mine, node.config
    if mine.primary_id is None:
        replicas = config.replicas_of(mine.id)
        lines = {
            f"slave{number}": f"ip={each.host},port={each.port},state=online,offset={node.offset},lag=0"
            for number, each in enumerate(replicas)
        }
        about: dict[str, object] = {"connected_slaves": len(replicas), **lines}
    else:
        primary = config.workers[mine.primary_id]
        about = {"connected_slaves": 0, "master_host": primary.host, "master_port": primary.port}
        about |= {"master_link_status": "down" if node.is_recovering else "up"}
        about |= {"master_sync_in_progress": bool(node.is_recovering)}
    role = "master" if mine.primary_id is None else "slave"
    return {"role": role, **about, "last_failover_state": node.failover_state}


def _quit(_node: GarnetNode, connection: FakeConnection, _args: list[bytes]) -> object:
    connection.send(b"+OK\r\n")
    connection.close()
    return Raw(b"")


def _config(_node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    match [args[0].upper(), *args[1:]]:
        case [b"GET", _]:
            return Raw(b"*0\r\n")
        case [b"SET", *_]:
            return _OK
    return ReplyError(f"ERR unknown subcommand '{args[0].decode('latin-1')}'.")


COMMANDS: Table = MappingProxyType(
    {
        "HELLO": Command(_hello, -1),
        "AUTH": Command(_auth, -2),
        "CLIENT": Command(_client, -2),
        "PING": Command(ping, -1),
        "ECHO": Command(echo, 2),
        "SELECT": Command(_select, 2, no_multi=True),
        "READONLY": Command(_readonly, 1),
        "READWRITE": Command(_readwrite, 1),
        "ASKING": Command(_asking, 1),
        "ROLE": Command(_role, 1),
        "INFO": Command(_info, -1),
        "CONFIG": Command(_config, -2),
        "QUIT": Command(_quit, 1),
    }
)
