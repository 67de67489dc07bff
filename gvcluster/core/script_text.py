"""A script as bytes: how it is loaded, and called by its digest or with its source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gvcluster.core.resp import encode
from gvcluster.errors import ConfigError


class ScriptText:
    """What is the same in all calls of a script.

    Attributes:
        sha: The SHA1 digest of the source, 40 hexadecimal digits, by which servers know it.
        read_only: It is called by EVALSHA_RO and EVAL_RO, which let it write nothing.
        load: The packed command that loads it.
        question: Asks whether a node has it.
    """

    __slots__ = ("_by_sha", "_by_source", "load", "question", "read_only", "sha", "source")

    def __init__(self, source: str | bytes, *, read_only: bool) -> None:
        if not isinstance(source, str | bytes):
            raise ConfigError(f"a script's source must be str or bytes, not {type(source).__name__}")
        if not isinstance(read_only, bool):
            raise ConfigError(f"read_only must be True or False, not {type(read_only).__name__}")
        self.load = encode(("SCRIPT", "LOAD", source))
        self.source = source.encode() if isinstance(source, str) else source
        self.read_only = read_only
        import hashlib

        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()
        self.question = encode(("SCRIPT", "EXISTS", self.sha))
        suffix = "_RO" if read_only else ""
        self._by_sha = _parts(f"EVALSHA{suffix}", self.sha)
        self._by_source = _parts(f"EVAL{suffix}", source)

    def __repr__(self) -> str:
        return f"<ScriptText {self.sha}>"

    def command(self, keys: Sequence[Any], args: Sequence[Any]) -> tuple[Any, ...]:
        """The command that calls it by its digest. Raises ConfigError."""
        for name, given in (("keys", keys), ("args", args)):
            if isinstance(given, str | bytes | bytearray) or not isinstance(given, Sequence):
                raise ConfigError(f"{name} must be a list or a tuple, not {type(given).__name__}")
        return ("EVALSHA_RO" if self.read_only else "EVALSHA", self.sha, len(keys), *keys, *args)

    def with_source(self, by_sha: bytes) -> bytes:
        """The same call with the source, from the packed one with the digest."""
        head, _, rest = by_sha.partition(b"\r\n")
        assert rest.startswith(self._by_sha)
        return head + b"\r\n" + self._by_source + rest[len(self._by_sha) :]


def _parts(*args: str | bytes) -> bytes:
    """The packed arguments, without their number in front."""
    return encode(args).partition(b"\r\n")[2]


def is_missing(answer: object) -> bool:
    """Whether the answer to `ScriptText.question` is that the node does not have the script.

    Then it has not run either, and NOSCRIPT was the server's own word: a script that makes up this error is there.
    Unless it was removed in between, by a SCRIPT FLUSH that strikes between the two: that much is accepted.
    """
    return isinstance(answer, list) and len(answer) == 1 and type(answer[0]) is int and answer[0] == 0
