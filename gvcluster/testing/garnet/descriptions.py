"""COMMAND at a Garnet node: names in capitals, and sets where Valkey has lists."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from gvcluster.errors import ReplyError
from gvcluster.testing.answers import encode_reply
from gvcluster.testing.garnet.command import Command, Raw, Table

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.garnet.node import GarnetNode


def _command(node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    match [args[0].upper(), *args[1:]] if args else [b"INFO"]:
        case [b"COUNT"]:
            return len(node.table)
        case [b"INFO", *names]:
            wanted = [name.decode("latin-1").upper() for name in names] or list(node.table)
            told = b"".join(_described(name, node.table.get(name), connection.protocol) for name in wanted)
            return Raw(b"*%d\r\n%b" % (len(wanted), told))
        case [b"GETKEYS", name, *rest]:
            return _keys_of(node, [name, *rest])
    return ReplyError(f"ERR unknown subcommand '{args[0].decode('latin-1')}'.")


def _keys_of(node: GarnetNode, args: list[bytes]) -> object:
    described = node.table.get(args[0].decode("latin-1").upper())
    if described is None:
        return ReplyError("Invalid command specified")
    return described.keys_of(args) or ReplyError("The command has no key arguments")


def _described(name: str, command: Command | None, protocol: int) -> bytes:
    """Ten elements, the name in capitals; flags, tips and key specifications are sets in RESP3."""
    if command is None:
        return encode_reply(None, protocol)
    first, last, step = (0, 0, 0) if command.counted else command.keys
    has_keys = bool(command.keys[2] or command.counted)
    flags = ["fast", *(["write" if command.writes else "readonly"] if has_keys else [])]
    mark = b"~" if protocol == 3 else b"*"
    fields = [encode_reply(name.encode()), encode_reply(command.arity), _members(mark, flags)]
    fields += [encode_reply(number) for number in (first, last, step)]
    fields += [_members(mark, []), _members(mark, []), _key_specs(command, protocol), encode_reply([])]
    return b"*10\r\n" + b"".join(fields)


def _members(mark: bytes, words: list[str]) -> bytes:
    return mark + b"%d\r\n" % len(words) + b"".join(map(encode_reply, words))


def _key_specs(command: Command, protocol: int) -> bytes:
    """A set of one specification, or of none. Each is a map; its flags are a set again."""
    mark, three_fields = (b"~", b"%3\r\n") if protocol == 3 else (b"*", b"*6\r\n")
    if not (command.keys[2] or command.counted):
        return mark + b"0\r\n"
    begin, how = _counted_keys(command) if command.counted else _range_of_keys(command)
    search = {b"type": b"index", b"spec": {b"index": begin}}
    fields = (encode_reply(part, protocol) for part in (b"begin_search", search, b"find_keys", how))
    flags = encode_reply(b"flags") + _members(mark, ["RW" if command.writes else "RO"])
    return mark + b"1\r\n" + three_fields + flags + b"".join(fields)


def _counted_keys(command: Command) -> tuple[int, dict[bytes, object]]:
    find = {b"keynumidx": 0, b"firstkey": 1, b"keystep": 1}
    return command.counted, {b"type": b"keynum", b"spec": find}


def _range_of_keys(command: Command) -> tuple[int, dict[bytes, object]]:
    first, last, step = command.keys
    find = {b"lastkey": last if last < 0 else last - first, b"keystep": step, b"limit": 0}
    return first, {b"type": b"range", b"spec": find}


COMMANDS: Table = MappingProxyType({"COMMAND": Command(_command, -1)})
