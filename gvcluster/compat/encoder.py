"""Values to bytes and back, as the libraries' own encoder does it."""

from __future__ import annotations

from typing import Any


class Encoder:
    """How arguments are written, and replies read where `decode_responses` is set."""

    def __init__(self, encoding: str, errors: str, decode_responses: bool, data_error: type[Exception]) -> None:
        self.encoding, self.encoding_errors, self.decode_responses = encoding, errors, decode_responses
        self._data_error = data_error

    def encode(self, value: Any) -> bytes:
        """One argument as bytes: numbers as Python prints them. Raises the library's DataError."""
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode(self.encoding, self.encoding_errors)
        if isinstance(value, memoryview | bytearray):
            return bytes(value)
        if isinstance(value, bool):
            raise self._data_error("Invalid input of type: 'bool'. Convert to a bytes, string, int or float first.")
        if isinstance(value, int | float):
            return repr(value).encode()
        kind = type(value).__name__
        raise self._data_error(f"Invalid input of type: '{kind}'. Convert to a bytes, string, int or float first.")

    def decode(self, value: Any, force: bool = False) -> Any:
        """Bytes as str, if that is wanted; everything else as it is."""
        if not (self.decode_responses or force):
            return value
        if isinstance(value, memoryview):
            value = value.tobytes()
        return value.decode(self.encoding, self.encoding_errors) if isinstance(value, bytes) else value

    def command(self, args: tuple[Any, ...]) -> tuple[bytes, ...]:
        """A command as it is sent: the words of its name apart."""
        name = args[0]
        words = name.encode() if isinstance(name, str) else name
        return (*words.split(), *map(self.encode, args[1:]))

    def nested(self, reply: Any) -> Any:
        """A whole reply decoded: lists, sets and dicts with all that is in them."""
        if isinstance(reply, list):
            return [self.nested(each) for each in reply]
        if isinstance(reply, dict):
            return {self.nested(key): self.nested(value) for key, value in reply.items()}
        if isinstance(reply, set | frozenset):
            return {self.nested(each) for each in reply}
        return self.decode(reply)
