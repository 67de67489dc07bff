"""What one greenlet at a time may use, while it waits there."""

from __future__ import annotations

from types import TracebackType

from gvcluster.errors import ConfigError


class Busy:
    """Whether somebody waits in it now: `with` it for as long as that lasts, and `refuse` all others."""

    __slots__ = ("_refusal", "is_so")

    def __init__(self, refusal: str) -> None:
        self._refusal = refusal
        self.is_so = False

    def __repr__(self) -> str:
        return f"<Busy {self.is_so}>"

    def refuse(self) -> None:
        """Raise ConfigError if somebody waits in it."""
        if self.is_so:
            raise ConfigError(self._refusal)

    def __enter__(self) -> None:
        self.is_so = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_so = False
