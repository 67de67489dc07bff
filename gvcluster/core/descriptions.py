"""What servers and description files tell of commands → Command.

Read are the replies to COMMAND and COMMAND INFO (RESP2 or 3, with or without key specifications), the description files
of Valkey's repository and of modules (a file for each command), and the one-file form of the documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from gvcluster.core.command_spec import Command, KeySpec
from gvcluster.errors import ConfigError

# No position or count of a description is larger: what is, is a mistake.
_LARGEST = 2**31 - 1
_UNKNOWN: Mapping[str, Any] = MappingProxyType({"begin_search": {"type": "unknown"}, "find_keys": {"type": "unknown"}})
_POLICIES = ("request_policy:", "response_policy:")


class Description(NamedTuple):
    """One command as it is described. `specs` have the form of COMMAND's reply, without what only ACLs need."""

    name: str  # as COMMAND has it: in lower case, a subcommand after a |
    arity: int
    flags: tuple[str, ...]
    tips: tuple[str, ...]
    specs: tuple[Mapping[str, Any], ...]


def described_by_server(reply: object) -> Iterator[Description]:
    """Read a reply to COMMAND or COMMAND INFO, by name, subcommands after their container.

    Before Redis 7, and from modules that tell no more, an entry has the first key, the last and the step instead of key
    specifications.

    Raises:
        ConfigError: It makes no sense.
    """
    for entry in sorted(_entries(_plain(reply)), key=lambda entry: str(entry[0])):
        name, arity, flags = entry[:3]
        tips, specs, subcommands = entry[7:10] if len(entry) > 9 else ([], _range_specs(entry), [])
        yield _description(name, arity, flags, tips, specs)
        yield from described_by_server(subcommands)


def described_in(document: object) -> Iterator[Description]:
    """Read a document of command descriptions: name → description.

    Raises:
        ConfigError: It makes no sense, or does not tell the arity.
    """
    if not isinstance(document, Mapping):
        raise ConfigError(f"command descriptions are a mapping from names to descriptions, not {_kind(document)}")
    for name, told in document.items():
        if not isinstance(name, str) or not isinstance(told, Mapping):
            raise ConfigError(f"command descriptions are a mapping from names to mappings, not to {_kind(told)}")
        container = told.get("container")
        full = f"{container} {name}" if container else name
        flags, specs = _words(full, told, "command_flags"), told.get("key_specs", [])
        # A function that looks at the arguments only for what is done with a key says so: variable_flags.
        if "get_keys_function" in told and "variable_flags" not in repr(specs).lower():
            flags.append("movablekeys")
        tips = [*_words(full, told, "command_tips"), *_words(full, told, "hints")]
        yield _description(full, told.get("arity"), flags, tips, specs)


def command_from(described: Description, *, stranger: bool = False) -> Command:
    """Make a Command of a description.

    Args:
        described: The description.
        stranger: Nobody has looked through it by hand. Its errors may be anybody's words, as those of a script; and
            where its specifications do not find all keys, only the server can.

    Raises:
        ConfigError: The description makes no sense.
    """
    flags = described.flags
    policies = dict(tip.split(":", 1) for tip in described.tips if tip.startswith(_POLICIES))
    keys = tuple(_key_spec(described.name, spec) for spec in described.specs)
    return Command(
        display_name(described.name),
        described.arity,
        keys,
        read_only="readonly" in flags,
        write="write" in flags,
        blocking="blocking" in flags,
        script=stranger,
        movable_keys="movablekeys" in flags,
        request_policy=policies.get("request_policy"),
        response_policy=policies.get("response_policy"),
        ask_keys=stranger and _is_partial(keys, "movablekeys" in flags),
    )


def _is_partial(keys: Sequence[KeySpec], movable: bool) -> bool:
    """Whether the specifications do not find all keys."""
    # If no specification is movable, but the keys are: a function of the server finds them.
    found_by_function = movable and not any(spec.keyword or spec.numkeys is not None for spec in keys)
    return found_by_function or any(spec.incomplete for spec in keys)


def display_name(name: str) -> str:
    """A command's name as the table has it: `config|set` and `config set` are CONFIG SET."""
    shown = name.replace("|", " ", 1)
    words = shown.split()
    if " ".join(words) != shown or not 1 <= len(words) <= 2:
        raise ConfigError(f"{name[:32]!r} is no name of a command, nor of a container and a subcommand")
    return " ".join(word.upper() if word.isascii() else word for word in words)


def _entries(reply: Any) -> list[list[Any]]:
    entries = [entry for entry in reply if entry is not None] if isinstance(reply, list) else [reply]
    if not all(isinstance(entry, list) and len(entry) >= 6 and isinstance(entry[0], str) for entry in entries):
        raise ConfigError("this is no description of commands")
    return entries


def _description(name: str, arity: object, flags: object, tips: object, specs: object) -> Description:
    if not _is_number(arity) or arity == 0:
        raise ConfigError(f"{name}: its arity must be a whole number other than 0, not {_kind(arity)}")
    if not _are_words(flags) or not _are_words(tips) or not isinstance(specs, list | tuple):
        raise ConfigError(f"{name}: flags and tips are lists of words, key specifications a list of mappings")
    kept = tuple(_spec(name, _mapping(name, spec)) for spec in specs)
    return Description(name.lower(), cast(int, arity), _lower(flags), _lower(tips), kept)


def _lower(words: Any) -> tuple[str, ...]:
    return tuple(sorted({word.lower() for word in words}))


def _is_number(number: object, least: int = -_LARGEST) -> bool:
    return type(number) is int and least <= number <= _LARGEST


def _words(name: str, told: Mapping[Any, Any], what: str) -> list[str]:
    words = told.get(what, [])
    if not _are_words(words):
        raise ConfigError(f"{name}: {what} must be a list of words")
    return list(words)


def _are_words(words: object) -> bool:
    return isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)


def _range_specs(entry: list[Any]) -> list[Any]:
    """The key specifications that are the same as a first key, a last one and a step."""
    name, first, last, step = entry[0], *entry[3:6]
    if not all(isinstance(number, int) for number in (first, last, step)):
        raise ConfigError(f"{name}: its first key, last key and step must be whole numbers")
    specs: list[Any] = []
    if first != 0:
        found = {"lastkey": last - first if last >= 0 else last, "keystep": step, "limit": 0}
        begin = {"type": "index", "spec": {"index": first}}
        specs.append({"begin_search": begin, "find_keys": {"type": "range", "spec": found}})
    if isinstance(entry[2], list) and "movablekeys" in entry[2]:
        specs.append(_UNKNOWN)
    return specs


def _spec(name: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A key specification, whichever form it has, in that of COMMAND's reply."""
    flags = spec.get("flags", [flag for flag, given in spec.items() if given is True])
    if not _are_words(flags):
        raise ConfigError(f"{name}: the flags of a key specification must be a list of words")
    parts = {part: _typed(name, _mapping(name, spec.get(part))) for part in ("begin_search", "find_keys")}
    return {"flags": list(_lower(flags)), **parts}


# What the description files call differently.
_RENAMED = (("pos", "index"), ("step", "keystep"))


def _typed(name: str, part: Mapping[str, Any]) -> Mapping[str, Any]:
    """`{"type": "index", "spec": {"index": 1}}`, which description files write `{"index": {"pos": 1}}`."""
    if "type" in part:
        told, given = part["type"], part.get("spec")
    else:
        told, given = next(iter(part.items()), ("unknown", None))
    if told == "unknown":
        return {"type": "unknown", "spec": {}}
    spec = dict(_mapping(name, given))
    for theirs, ours in _RENAMED:
        if theirs in spec:
            spec[ours] = spec.pop(theirs)
    return {"type": told, "spec": spec}


def _key_spec(name: str, spec: Mapping[str, Any]) -> KeySpec:
    begin, find, flags = spec["begin_search"], spec["find_keys"], spec["flags"]
    if "unknown" in (begin["type"], find["type"]):
        return KeySpec(0, incomplete=True)
    start, keyword = _begin(name, begin["type"], begin["spec"])
    how, counted = find["spec"], find["type"] == "keynum"
    if not counted and find["type"] != "range":
        raise ConfigError(f"{name}: keys are found by range, keynum or unknown, not {_kind(find['type'])}")
    return KeySpec(
        start,
        keyword,
        last=_number(name, how, "lastkey", default=0),
        step=_number(name, how, "keystep", 1),
        limit=_number(name, how, "limit", 0, default=0),
        numkeys=_number(name, how, "keynumidx", 0) if counted else None,
        first=_number(name, how, "firstkey", 0) if counted else 0,
        not_key="not_key" in flags,
        incomplete="incomplete" in flags,
    )


def _begin(name: str, kind: object, spec: Mapping[str, Any]) -> tuple[int, str]:
    """Where a specification begins to look, and for which word."""
    if kind == "index":
        return _number(name, spec, "index", 1), ""
    start, keyword = _number(name, spec, "startfrom"), spec.get("keyword")
    if kind != "keyword" or not isinstance(keyword, str) or not keyword or start == 0:
        raise ConfigError(f"{name}: keys begin at an index, after a keyword, or it is unknown where")
    return start, keyword.upper()


def _number(name: str, spec: Mapping[str, Any], what: str, least: int = -_LARGEST, default: int | None = None) -> int:
    number = spec.get(what, default)
    if not _is_number(number, least):
        raise ConfigError(f"{name}: {what} of its key specification must be a whole number of at least {least}")
    return cast(int, number)


def _plain(value: Any) -> Any:
    """A reply with str instead of bytes, and lists instead of sets."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return value


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    """A mapping, also where RESP2 writes it as a list of keys and values."""
    if isinstance(value, list) and len(value) % 2 == 0 and all(isinstance(key, str) for key in value[::2]):
        value = dict(zip(value[::2], value[1::2], strict=True))
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}: its key specifications must be mappings, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return repr(value)[:32] if isinstance(value, int | str | None) else type(value).__name__
