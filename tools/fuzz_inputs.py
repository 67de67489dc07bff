"""Generated input for fuzz.py: made of the pieces that mean something to who reads it, and of junk between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

from gvcluster.core.resp import encode


def _text(rng: Random, pieces: Sequence[str], most: int) -> str:
    """Pieces that mean something, now and then any character instead."""
    parts = rng.choices(pieces, k=rng.randrange(most + 1))
    if parts and rng.random() < 0.2:
        parts[rng.randrange(len(parts))] = chr(rng.randrange(0x110000))
    return "".join(parts)


def _junk(rng: Random, depth: int = 3) -> Any:
    """Anything that a reply or a JSON document can hold."""
    kind = rng.randrange(9 if depth else 7)
    if kind == 7:
        return [_junk(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 8:
        return {rng.choice(_WORDS): _junk(rng, depth - 1) for _ in range(rng.randrange(4))}
    simple = (None, rng.random() < 0.5, rng.randrange(-2, 3), rng.choice((1.5, math.inf, math.nan)), 2**70)
    return rng.choice(_WORDS) if kind == 6 else rng.randbytes(rng.randrange(4)) if kind == 5 else simple[kind]


_WORDS = (
    *"arity flags key_specs begin_search find_keys type spec index range keynum unknown pos".split(),
    *"keyword startfrom lastkey step keystep limit keynumidx firstkey container".split(),
    *(b"type", b"spec", b"flags", "GET", "a b", "a|b", ""),
)
_SPECIFIERS = tuple("% %% %s %b %d %i %u %o %x %X %e %f %g %a %c %n %5d %-5s %.3f %08.3a %lld %+d %#x %*d".split())


def any_format(rng: Random) -> tuple[str | bytes, list[Any]]:
    """A format and its values."""
    format = _text(rng, (*_SPECIFIERS, " ", "  ", "GET", "k", "0", "-", "#", ".", "\0", "\r\n", "é"), 8)
    values: tuple[Any, ...] = (
        0,
        -1,
        255,
        10**400,
        True,
        None,
        1.5,
        -0.0,
        math.nan,
        math.inf,
        "",
        "a b",
        "\r\n",
        "\ud800",
        b"\xff",
        [],
        "%s",
    )
    count = format.count("%") if rng.random() < 0.8 else rng.randrange(9)
    given: str | bytes = format.encode(errors="replace") if rng.random() < 0.2 else format
    return given, rng.choices(values, k=count)


def any_encoded(rng: Random) -> bytes:
    """An encoded command, mostly with something changed, cut off or added."""
    args = [rng.randbytes(rng.randrange(5)) for _ in range(rng.randrange(1, 5))]
    data = bytearray(encode(tuple(args)))
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randrange(3)] = rng.choice((b"", b"\r\n", b"$", b"*", b"0", b"9", b"-1", rng.randbytes(2)))
    return bytes(data)


_HOSTS = ("127.0.0.1", "::1", "[::1]", "[", "]", "h.example", "?", "unassigned", "a" * 300, "fe80::1%eth0", "\u0663")
_PORTS = (":", "7000", "0", "65535", "65536", "-1", "@", "@17000", ",h", "٣", " ", "\r\n", "\0")


def any_redirect(rng: Random) -> str:
    """The text of a redirect."""
    slot = rng.choice(("42",) * 9 + ("0", "16383", "16384", "-1", "042", "٣", "9" * 30, "", " 42"))
    where = _text(rng, _HOSTS + _PORTS, 4) if rng.random() < 0.5 else f"{rng.choice(_HOSTS)}:{rng.choice(_PORTS)}"
    return f"{rng.choice(('MOVED', 'ASK'))} {slot} {where}"


def _member(rng: Random) -> Any:
    if rng.random() < 0.2:
        return _junk(rng)
    host = rng.choice((b"127.0.0.1", b"::1", b"h", b"", b"?", b"a b", b"\xff", "127.0.0.2", None))
    port = rng.choice((7001, 7002, 7003, 0, -1, 65536, True, b"7001"))
    metadata = rng.choice(([], {}, [b"ip", b"127.0.0.3"], {b"ip": b"127.0.0.3"}, [b"ip"], [[], b"x"], {b"hostname": 1}))
    return [host, port, rng.choice((b"a" * 40, b"b" * 40, "c" * 40, b"\n", None)), metadata][: rng.randrange(2, 5)]


def any_slots(rng: Random) -> Any:
    """A reply to CLUSTER SLOTS."""
    if rng.random() < 0.1:
        return _junk(rng)
    return [_range(rng) if rng.random() < 0.9 else _junk(rng) for _ in range(rng.randrange(1, 4))]


def _range(rng: Random) -> list[Any]:
    bounds = (0, 1, 2, 5460, 5461, 16383, 16384, -1, True, None)
    some = (rng.choice(bounds), rng.choice(bounds)) if rng.random() < 0.1 else (16300, 16383)
    first, last = rng.choice(((0, 0), (0, 99), (7, 8), some))
    return [first, last, *(_member(rng) for _ in range(rng.randrange(4)))]


_FIELDS = (
    ("a" * 40, "b" * 40, "c" * 40, "x"),
    (
        "127.0.0.1:7001@17001",
        ":7002",
        "?:1",
        "::1:7003@1,h",
        ":0@0",
        "h:7004@17004,h,tls-port=1",
        "x",
        "127.0.0.1:99999@1",
    ),
    (
        "master",
        "slave",
        "myself,master",
        "master,fail",
        "fail?",
        "master,noaddr",
        "handshake",
        "noflags",
        "slave,nofailover",
    ),
    ("-", "a" * 40, "b" * 40),
    ("0", "x"),
    ("0", "-1"),
    ("5", "0", "-1", "9" * 30),
    ("connected", "disconnected"),
)
_RANGES = (
    *("0-99", "1", "9-3", "16384", "0-50", "51-99", "16383"),
    "[7->-" + "b" * 40 + "]",
    "[7-<-x]",
    "x",
    "\udc80",
    "٣",
)


def any_nodes(rng: Random) -> Any:
    """A reply to CLUSTER NODES."""
    text = rng.choice(("\n", "\n", "\n", "\r\n", "\n\n")).join(_line(rng) for _ in range(rng.randrange(4))) + "\n"
    if rng.random() < 0.05:
        return _junk(rng)
    return text.encode(errors="surrogateescape") if _is_plain(text) else text


def _line(rng: Random) -> str:
    fields = [field[0] if rng.random() < 0.5 else rng.choice(field) for field in _FIELDS]
    fields += rng.choices(_RANGES, k=rng.randrange(4))
    fields += ["0-16383"] * (rng.random() < 0.02)  # rarely: overlaps in it take milliseconds
    if rng.random() < 0.2:
        fields[rng.randrange(len(fields))] = _text(rng, _HOSTS + _PORTS, 3)
    return " ".join(fields[: rng.choice((99, 99, 99, rng.randrange(12)))])


def _is_plain(text: str) -> bool:
    return not any("\ud800" <= character <= "\udc7f" or "\udd00" <= character <= "\udfff" for character in text)


_URL = (
    *(
        "h",
        "1.2.3.4",
        "[::1]",
        ":",
        "7000",
        ",",
        "/",
        "0",
        "1",
        "?",
        "&",
        "=",
        "@",
        "%",
        "%40",
        "%zz",
        "#",
        ";",
        " ",
        "+",
    ),
    *(
        "user",
        "db",
        "timeout",
        "timeout=1",
        "protocol=2",
        "retry",
        "safe",
        "password",
        "tls_minimum_version",
        "tls_ca_file",
    ),
    *(
        "client_info=true",
        "client_name",
        "danger_accept_invalid_hostnames=1",
        "nan",
        "inf",
        "1e999",
        "9" * 5000,
        "command_table",
    ),
)


_OPTIONS = (
    "timeout=1",
    "protocol=2",
    "retry=never",
    "client_info=true",
    "client_name=x",
    "db=1",
    "topology_source=nodes",
)


def any_url(rng: Random) -> str:
    """A URL."""
    scheme = rng.choice(("valkey://", "valkey://", "redis+cluster://", "rediss://", "http://", ""))
    if rng.random() < 0.5:
        return scheme + _text(rng, _URL, 12)
    userinfo = rng.choice(("", "", "", "", "u:p@", ":p@", "u@", "%40:%3a@"))
    query = "&".join(
        rng.choice(_OPTIONS) if rng.random() < 0.8 else _text(rng, _URL, 2) for _ in range(rng.randrange(3))
    )
    return (
        f"{scheme}{userinfo}{rng.choice(_HOSTS)}:{rng.choice(_PORTS)}/{rng.choice(('', '0', '7', 'x', '-1'))}?{query}"
    )


def _entry(rng: Random) -> Any:
    """An entry of COMMAND, with junk in some places."""
    limits: dict[str, Any] = {"lastkey": 0, "keystep": 1, "keynumidx": 0, "firstkey": 1}
    start: dict[str, Any] = {"index": 1, "keyword": "KEYS", "startfrom": -2}
    found: dict[str, Any] = {"type": rng.choice(("range", "keynum", "unknown")), "spec": limits}
    begin: dict[str, Any] = {"type": rng.choice(("index", "keyword")), "spec": start}
    spec: dict[str, Any] = {"flags": ["RO"], "begin_search": begin, "find_keys": found}
    entry = [rng.choice((b"get", "a|b", "x")), 2, ["readonly", b"movablekeys"], 1, 1, 1, [], [], [spec], []]
    for _ in range(rng.randrange(3)):
        if rng.random() < 0.5:
            entry[rng.randrange(len(entry))] = _junk(rng)
        else:
            place = rng.choice((spec, begin, found, limits, start))
            place[rng.choice(list(place))] = _junk(rng)
    return entry[: rng.choice((6, 7, 10, 10, 10))]


def any_descriptions(rng: Random) -> Any:
    """A reply to COMMAND INFO, or a document."""
    return _junk(rng, 5) if rng.random() < 0.3 else [_entry(rng) for _ in range(rng.randrange(1, 3))]


_PUSHED = (b"message", b"pmessage", b"smessage", b"subscribe", b"psubscribe", b"ssubscribe", b"sunsubscribe", b"pong")


def any_push(rng: Random) -> Any:
    """What may come over a subscribed connection: half of it well formed but for a part."""
    if rng.random() < 0.3:
        return _junk(rng)
    parts: list[Any] = [rng.choice(_PUSHED), b"name", b"data" if rng.random() < 0.5 else 1, b"more"]
    item = parts[: rng.choice((1, 2, 3, 3, 3, 4))]
    if rng.random() < 0.5:
        item[rng.randrange(len(item))] = _junk(rng)
    return item
