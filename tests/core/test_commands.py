"""Arguments → what the router must know."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvcluster.core.commands import (
    COMMANDS,
    Command,
    CommandTable,
    KeySpec,
    block_timeout,
    find_command,
    key_positions,
    may_block,
    route,
    with_timeout,
)
from gvcluster.errors import ConfigError, CrossSlot, GvClusterError, UnknownCommand


def call(text: str) -> list[str]:
    """A command as one line; `''` stands for an empty argument."""
    return [argument.replace("''", "") for argument in text.split()]


# --- Which command is it? ---


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (("GET", "k"), "GET"),
        (("get", "k"), "GET"),
        (("gEt", "k"), "GET"),
        ((b"GET", "k"), "GET"),
        ((b"gEt", "k"), "GET"),
        (("CLUSTER", "SLOTS"), "CLUSTER SLOTS"),
        (("cluster", b"sLots"), "CLUSTER SLOTS"),
        (("CLIENT", "NO-EVICT", "on"), "CLIENT NO-EVICT"),
        (("COMMAND",), "COMMAND"),
        (("COMMAND", "COUNT"), "COMMAND COUNT"),
        (("DEBUG", "JMAP"), "DEBUG"),
    ],
)
def test_a_command_is_found_in_any_case_and_with_its_subcommand(args: tuple[Any, ...], name: str) -> None:
    assert find_command(args).name == name


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("HGETAL", "secret"), "the command table does not list 'HGETAL'; did you mean HGETALL?"),
        ((b"json.get", "secret"), "the command table does not list 'JSON.GET'."),
        (("CLUSTER", "SLOTZ"), "the command table does not list CLUSTER 'SLOTZ'; did you mean CLUSTER SLOTS?"),
        (("CLUSTER", "éé"), "the command table does not list CLUSTER 'éé'."),
        (("ſET", "secret"), "the command table does not list 'ſET'; did you mean SET?"),
        (("Q" * 99,), f"the command table does not list '{'Q' * 32}'."),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest_known_one(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UnknownCommand) as raised:
        find_command(args)
    hint = " If your servers know it, say where to send it: node= or route_key="
    assert str(raised.value) == message + hint


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "an empty command: pass at least its name"),
        (("",), "argument 0 must be a name, and is empty"),
        ((None, "k"), "argument 0, the command's name, must be str or bytes, not NoneType"),
        ((["GET"], "k"), "argument 0, the command's name, must be str or bytes, not list"),
        ((1,), "argument 0, the command's name, must be str or bytes, not int"),
        (("CONFIG", 1), "argument 1, the subcommand's name, must be str or bytes, not int"),
        (("CLUSTER SLOTS",), "argument 0 is several words (CLUSTER …): pass each as an argument of its own"),
        ((b"set k secret",), "argument 0 is several words (set …): pass each as an argument of its own"),
        (("secret secret",), "argument 0 is several words: pass each as an argument of its own"),
        (("GET\n", "k"), "argument 0 is several words (GET …): pass each as an argument of its own"),
        (("XINFO",), "XINFO needs a subcommand: one of CONSUMERS, GROUPS, HELP, STREAM"),
    ],
)
def test_what_names_no_command_is_refused_without_showing_values(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_command(args)
    assert str(raised.value) == message


@pytest.mark.parametrize("spelling", ["GET", "get", b"GET", b"get"])
def test_the_hot_path_finds_the_usual_spellings_without_a_detour(spelling: str | bytes) -> None:
    assert COMMANDS.get(spelling) is COMMANDS.named("GET")
    assert COMMANDS.lone_keys[spelling] == 1


def test_the_hot_path_leaves_all_else_to_the_long_way() -> None:
    assert [COMMANDS.get(name) for name in ("Get", "CLUSTER SLOTS", "NOSUCH", 7, None)] == [None] * 5
    assert "CLUSTER" not in COMMANDS.lone_keys


def test_a_lone_key_needs_no_look_at_the_arguments() -> None:
    lone = {command.name: command.lone_key for command in COMMANDS if command.lone_key}
    for name in "GET SET SETEX INCR HSET HGETALL LPUSH EXPIRE TYPE PFADD XADD ZADD SPUBLISH BITFIELD RESTORE".split():
        assert lone.pop(name) == 1
    others = "DEL MGET RENAME BLPOP EVAL SORT XREAD SUBSCRIBE SSUBSCRIBE WATCH PING GEORADIUS OBJECT CLUSTERSCAN ASKING"
    assert lone.keys().isdisjoint(others.split())
    assert lone.pop("PFDEBUG") == 2
    assert set(lone.values()) == {1}


def test_a_table_with_more_commands_is_another_table() -> None:
    module = Command("MOD.GET", 2, (KeySpec(1),), read_only=True, script=True)
    table = CommandTable([*COMMANDS, module])
    assert find_command(("mod.get", "k"), table) is module
    assert module.lone_key == 0
    assert len(table) == len(COMMANDS) + 1
    assert route(("MOD.GET", "user1000"), table) == (module, ("user1000",), 3443, True, False)
    with pytest.raises(UnknownCommand):
        find_command(("mod.get", "k"))


def test_a_command_is_frozen() -> None:
    with pytest.raises(AttributeError):
        find_command(("GET", "k")).write = True  # type: ignore[misc]


# --- Where are its keys? COMMAND GETKEYS of Valkey 9.1.2 gives the same ones, tests/live/test_command_keys.py. ---


@pytest.mark.parametrize(
    ("line", "positions"),
    [
        ("GET k", [1]),
        ("SET k v EX 10", [1]),
        ("PING", []),
        ("MGET a b c", [1, 2, 3]),
        ("MSET a 1 b 2", [1, 3]),
        ("MSET a 1 b", [1, 3]),
        ("DEL ''", [1]),
        ("RENAME a b", [1, 2]),
        ("BITOP AND dest a b", [2, 3, 4]),
        ("PFMERGE dest", [1]),
        ("PFMERGE dest a b", [1, 2, 3]),
        ("SINTERSTORE dest a b", [1, 2, 3]),
        ("BLPOP a b 0", [1, 2]),
        ("BLMOVE a b LEFT RIGHT 0", [1, 2]),
        ("SMOVE a b m", [1, 2]),
        ("COPY a b REPLACE", [1, 2]),
        ("OBJECT ENCODING k", [2]),
        ("OBJECT HELP", []),
        ("MEMORY USAGE k SAMPLES 0", [2]),
        ("MEMORY DOCTOR", []),
        ("XGROUP CREATE k g $", [2]),
        ("XINFO STREAM k FULL", [2]),
        ("DEBUG OBJECT k", []),
        ("COMMAND GETKEYS GET k", []),
        ("CLUSTER KEYSLOT k", []),
        ("PUBLISH c m", []),
        ("SPUBLISH c m", [1]),
        ("SSUBSCRIBE c d", [1, 2]),
        ("SUNSUBSCRIBE", []),
        ("CLUSTERSCAN 0-{06S}-0 COUNT 10", [1]),
        ("EVAL script 2 a b argument", [3, 4]),
        ("EVAL script 0", []),
        ("EVALSHA_RO digest 1 a", [3]),
        ("FCALL function 1 a", [3]),
        ("ZUNION 2 a b WITHSCORES", [2, 3]),
        ("ZUNIONSTORE dest 2 a b WEIGHTS 1 2", [1, 3, 4]),
        ("ZDIFF 0 a", []),
        ("SINTERCARD 2 a b LIMIT 1", [2, 3]),
        ("LMPOP 2 a b LEFT", [2, 3]),
        ("ZMPOP 1 a MIN", [2]),
        ("BLMPOP 0 2 a b LEFT", [3, 4]),
        ("BZMPOP 0 1 a MIN", [3]),
        ("MSETEX 2 a 1 b 2 EX 10", [2, 4]),
        ("XREAD STREAMS a 0", [2]),
        ("XREAD COUNT 2 BLOCK 0 STREAMS a b 0 0", [6, 7]),
        ("xread count 2 block 0 streams streams block 0 0", [6, 7]),
        ("XREADGROUP GROUP g c STREAMS a b > >", [5, 6]),
        ("XREADGROUP COUNT 1 GROUP STREAMS STREAMS NOACK STREAMS a >", [8]),
        ("XREADGROUP GROUP g c CLAIM 10 STREAMS a >", [7]),
        ("SORT k", [1]),
        ("SORT k BY STORE LIMIT 0 1 GET STORE DESC", [1]),
        ("SORT k ALPHA STORE dest", [1, 4]),
        ("SORT k STORE a STORE b", [1, 5]),
        ("SORT k STORE", [1]),
        ("SORT_RO k BY w_* GET #", [1]),
        ("GEORADIUS k 1 2 3 m", [1]),
        ("GEORADIUS k 1 2 3 m COUNT 1 STORE dest", [1, 9]),
        ("GEORADIUS k 1 2 3 m STORE a STOREDIST b", [1, 9]),
        ("GEORADIUSBYMEMBER k member 1 m storedist dest", [1, 6]),
        ("GEORADIUSBYMEMBER k STORE 1 m", [1]),
        ("GEOSEARCHSTORE dest source FROMMEMBER m BYRADIUS 1 m", [1, 2]),
        ("MIGRATE host 6379 k 0 1000", [3]),
        ("MIGRATE host 6379 k 0 1000 COPY AUTH keys", [3]),
        ("MIGRATE host 6379 '' 0 1000 COPY AUTH2 user KEYS KEYS a b", [11, 12]),
        ("MIGRATE host 6379 '' 0 1000 KEYS", [3]),
        ("STRALGO LCS KEYS a b LEN", [3, 4]),
        ("STRALGO LCS STRINGS a b", []),
    ],
)
def test_the_keys_are_where_the_server_looks_for_them(line: str, positions: list[int]) -> None:
    as_str = call(line)
    as_bytes = [argument.encode() for argument in as_str]
    assert list(key_positions(find_command(as_str), as_str)) == positions
    assert list(key_positions(find_command(as_bytes), as_bytes)) == positions


def test_a_number_of_keys_may_be_an_int() -> None:
    assert key_positions(find_command(("EVAL",)), ("EVAL", "script", 2, "a", "b")) == (3, 4)


@pytest.mark.parametrize(
    ("spec", "line", "positions"),
    [
        (KeySpec(-3, "KEYS", last=-1), "M.X KEYS c KEYS a b", [4, 5]),
        (KeySpec(-1, "KEYS", last=-1), "M.X a b KEYS c", [4]),
        (KeySpec(-9, "KEYS", last=-1), "M.X KEYS a b", []),
        (KeySpec(1, "STREAMS", last=-1, limit=2), "M.X STREAMS a b 0 0", [2, 3]),
        (KeySpec(1, last=-1, limit=3), "M.X a b 1 2 3 4", [1, 2]),
        (KeySpec(0, incomplete=True), "M.X a b", []),
    ],
)
def test_every_kind_of_key_specification_is_understood(spec: KeySpec, line: str, positions: list[int]) -> None:
    assert list(key_positions(Command("M.X", -1, (spec,)), call(line))) == positions


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("GET",), "GET needs 1 argument after its name, got 0"),
        (("MGET",), "MGET needs at least 1 argument after its name, got 0"),
        (("OBJECT", "ENCODING"), "OBJECT ENCODING needs 1 argument after its name, got 0"),
        (("EVAL", "script", "two", "a"), "EVAL: argument 2 is the number of keys, it must be 0 or more"),
        (("EVAL", "script", "-1", "a"), "EVAL: argument 2 is the number of keys, it must be 0 or more"),
        (("EVAL", "script", "1_0", "a"), "EVAL: argument 2 is the number of keys, it must be 0 or more"),
        (("EVAL", "script", 1.0, "a"), "EVAL: argument 2 is the number of keys, it must be 0 or more"),
        (("EVAL", "script", True, "a"), "EVAL: argument 2 is the number of keys, it must be 0 or more"),
        (("EVAL", "script", 2**63, "a"), "EVAL: argument 2 is the number of keys, it must be 0 or more"),
        (("EVAL", "script", None, "a"), "EVAL: argument 2 is the number of keys, it must be 0 or more"),
        (("EVAL", "script", b"3", "a"), "EVAL: argument 2 promises 3 keys, but 1 arguments follow"),
        (("ZUNIONSTORE", "d", 2, "a"), "ZUNIONSTORE: argument 2 promises 2 keys, but 1 arguments follow"),
        (("MSETEX", 2, "a", 1, "b"), "MSETEX: argument 1 promises 2 keys, but 3 arguments follow"),
        (("XREAD", "COUNT", 1, "k"), "XREAD needs STREAMS, then keys, then as many ids"),
        (("XREAD", "STREAMS", "a", "b", "0"), "XREAD needs STREAMS, then keys, then as many ids"),
        (("XREAD", "COUNT", 1, "STREAMS"), "XREAD needs STREAMS, then keys, then as many ids"),
        (("MIGRATE", "h", 1, "k", 0, 9, "KEYS", "a"), "MIGRATE: argument 3 must be empty where KEYS follows"),
        (("STRALGO", "LCS", "KEYS", "a"), "STRALGO: the keys from argument 3 on are not all there"),
    ],
)
def test_malformed_arguments_are_refused_with_what_was_expected(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        key_positions(find_command(args), args)
    assert str(raised.value) == message


# --- May it block, and how long? ---


@pytest.mark.parametrize(
    ("args", "seconds"),
    [
        (("BLPOP", "a", "b", 5), 5.0),
        (("BLPOP", "a", "0.25"), 0.25),
        (("BRPOP", "a", 0), math.inf),
        (("BRPOPLPUSH", "a", "b", b"0.0"), math.inf),
        (("BLMOVE", "a", "b", "LEFT", "LEFT", 1.5), 1.5),
        (("BZPOPMIN", "a", bytearray(b"2")), 2.0),
        (("BLMPOP", "7", 1, "a", "LEFT"), 7.0),
        (("BZMPOP", 0.5, 1, "a", "MIN"), 0.5),
        (("WAIT", 1, 1500), 1.5),
        (("WAITAOF", 0, 1, "0"), math.inf),
        (("XREAD", "BLOCK", 250, "STREAMS", "a", "$"), 0.25),
        (("XREAD", "block", b"0", "STREAMS", "a", "$"), math.inf),
        (("XREAD", "BLOCK", 0, "BLOCK", 20, "STREAMS", "a", "$"), 0.02),
        (("XREAD", b"BLOCK\0", 20, "STREAMS", "a", "$"), 0.02),
        (("XREADGROUP", "GROUP", "g", "BLOCK", "BLOCK", 30, "STREAMS", "a", ">"), 0.03),
        (("XREADGROUP", "GROUP", "g", "c", "CLAIM", 9, "BLOCK", 30, "STREAMS", "a", ">"), 0.03),
        (("XREADGROUP", "GROUP", "BLOCK", "c", "STREAMS", "a", ">"), None),
        (("XREAD", "COUNT", 1, "STREAMS", "BLOCK", "0"), None),
        (("GET", "k"), None),
        (("LMPOP", 1, "a", "LEFT"), None),
        (("CLIENT", "PAUSE", 100), None),
        (("MIGRATE", "h", 1, "k", 0, 1000), None),
        (("EVAL", "script", 0), None),
    ],
)
def test_a_call_may_block_as_long_as_its_arguments_say(args: tuple[Any, ...], seconds: float | None) -> None:
    command = find_command(args)
    assert may_block(command, args) is (seconds is not None)
    assert block_timeout(command, args) == seconds


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("BLPOP", "a", "soon"), "BLPOP: argument 2 is the timeout, it must be seconds, 0 (for ever) or more"),
        (("BLPOP", "a", -1), "BLPOP: argument 2 is the timeout, it must be seconds, 0 (for ever) or more"),
        (("BLPOP", "a", "nan"), "BLPOP: argument 2 is the timeout, it must be seconds, 0 (for ever) or more"),
        (("BLPOP", "a", math.inf), "BLPOP: argument 2 is the timeout, it must be seconds, 0 (for ever) or more"),
        (("BLPOP", "a", None), "BLPOP: argument 2 is the timeout, it must be seconds, 0 (for ever) or more"),
        (("BLPOP", "a", True), "BLPOP: argument 2 is the timeout, it must be seconds, 0 (for ever) or more"),
        (("BLMPOP", "x", 1, "a", "L"), "BLMPOP: argument 1 is the timeout, it must be seconds, 0 (for ever) or more"),
        (("WAIT", 1, 0.5), "WAIT: argument 2 is the timeout, it must be whole milliseconds, 0 (for ever) or more"),
        (
            ("XREAD", "COUNT", 1, "BLOCK"),
            "XREAD: argument 4 is the timeout, it must be whole milliseconds, 0 (for ever) or more",
        ),
        (("BLPOP", "a"), "BLPOP needs at least 2 arguments after its name, got 1"),
    ],
)
def test_a_timeout_that_the_server_would_refuse_is_refused(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        block_timeout(find_command(args), args)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("args", "seconds", "expected"),
    [
        (("BLPOP", "a", "b", 5), 3.21456, ("BLPOP", "a", "b", "3.215")),
        (("BLMPOP", "7", 1, "a", "LEFT"), 0.0, ("BLMPOP", "0.001", 1, "a", "LEFT")),
        (("BLPOP", "a", 1e9), 999999999.5, ("BLPOP", "a", "999999999.500")),
        (("XREAD", "BLOCK", 900, "STREAMS", "a", "$"), 0.5, ("XREAD", "BLOCK", "500", "STREAMS", "a", "$")),
        (("XREAD", "block", 900, "COUNT", 1, "BLOCK", 9, "STREAMS", "BLOCK", "0"), 1e-9, "the last one"),
    ],
)
def test_the_timeout_can_be_another_one_but_never_for_ever(args: Any, seconds: float, expected: Any) -> None:
    if expected == "the last one":
        expected = ("XREAD", "block", 900, "COUNT", 1, "BLOCK", "1", "STREAMS", "BLOCK", "0")
    changed = with_timeout(find_command(args), args, seconds)
    assert changed == expected
    assert block_timeout(find_command(changed), changed) == pytest.approx(max(seconds, 0.001), abs=0.001)


# --- All of it ---


@pytest.mark.parametrize(
    ("args", "name", "keys", "slot", "read_only", "blocking"),
    [
        (("get", "user1000"), "GET", ("user1000",), 3443, True, False),
        ((b"SET", 12, "v"), "SET", (12,), 8373, False, False),
        (("GET", ""), "GET", ("",), 0, True, False),
        (("MGET", "{user1000}.a", b"user1000"), "MGET", ("{user1000}.a", b"user1000"), 3443, True, False),
        (("BLPOP", 1.5, 0), "BLPOP", (1.5,), 12682, False, True),
        (("PING",), "PING", (), None, False, False),
        (("EVAL_RO", "script", 0), "EVAL_RO", (), None, True, False),
        (("CLUSTER", "SLOTS"), "CLUSTER SLOTS", (), None, False, False),
        (("SPUBLISH", "key2", "m"), "SPUBLISH", ("key2",), 4998, False, False),
    ],
)
def test_a_route_tells_all_that_the_router_must_know(
    args: tuple[Any, ...], name: str, keys: tuple[Any, ...], slot: int | None, read_only: bool, blocking: bool
) -> None:
    assert route(args) == (find_command(args), keys, slot, read_only, blocking)
    assert route(args).command.name == name


def test_keys_of_several_slots_are_refused_with_the_keys_as_data_and_the_slots_in_the_message() -> None:
    with pytest.raises(CrossSlot) as raised:
        route(("MSET", "user1000", "secret", "key2", "secret", "key2", "secret"))
    assert raised.value.keys == ("user1000", "key2", "key2")
    assert str(raised.value) == (
        "MSET: its 3 keys belong to 2 hash slots (3443, 4998), which may be on different nodes."
        " Give them one hash tag, such as {user:1}:name and {user:1}:mail, or send one command for each slot"
    )


def test_a_cross_slot_message_stays_short() -> None:
    with pytest.raises(CrossSlot, match=r"100 keys belong to 100 hash slots \((\d+, ){5}…\)"):
        route(("DEL", *range(100)))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("GET", None), "GET: argument 1: a key must be str, bytes, int or float, not NoneType"),
        (("MGET", "a", True), "MGET: argument 2: a key must be str, bytes, int or float, not bool"),
        (("GET", "\udc80"), "GET: argument 1: a key must not be a str with lone surrogates; pass bytes instead"),
    ],
)
def test_what_can_not_be_a_key_is_named_by_its_position(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        route(args)
    assert str(raised.value) == message


ARGUMENTS = (
    st.sampled_from(
        ["a", "b", "{a}b", "", "STREAMS", "BLOCK", "KEYS", "STORE", "GROUP", "COUNT", "LIMIT", "keys", b"BY"]
    )
    | st.integers(-2, 5)
    | st.sampled_from(["0", "1", "2", b"3", "-1", "x", 2**80, 0.5, None, True, [], b"\0", "\udc80"])
)


@settings(max_examples=30)
@given(arguments=st.lists(ARGUMENTS, max_size=9))
def test_whatever_follows_a_name_nothing_but_our_own_errors_comes_out(arguments: list[Any]) -> None:
    for command in COMMANDS:
        args = (*command.name.split(" "), *arguments)
        try:
            way = route(args)
            assert way.slot is None or 0 <= way.slot < 16384
            assert way.blocking is (block_timeout(way.command, args) is not None)
        except GvClusterError as error:
            assert isinstance(error, ConfigError | CrossSlot | UnknownCommand)  # noqa: PT017


@given(name=st.text(max_size=9) | st.binary(max_size=9) | st.none() | st.integers() | st.lists(st.text()))
def test_whatever_the_name_nothing_but_our_own_errors_comes_out(name: Any) -> None:
    try:
        assert isinstance(find_command((name, "k")), Command)
    except (ConfigError, UnknownCommand) as error:
        assert str(error)  # noqa: PT017
