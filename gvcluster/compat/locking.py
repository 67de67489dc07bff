"""The libraries' Lock for greenlets: it holds up no others while it waits, and each greenlet has its own token."""

from __future__ import annotations

import uuid
from math import inf
from time import monotonic
from types import SimpleNamespace
from typing import Any

from gevent.local import local


class _Token(local):
    token: bytes | None = None


class LockRules:
    """Before the library's Lock among the bases: what waits there would hold up the hub unless all was patched."""

    redis: Any
    valkey: Any
    local: Any
    sleep: float
    blocking: bool
    blocking_timeout: float | None
    thread_local: bool
    lua_release: Any
    lua_extend: Any
    lua_reacquire: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As the library's."""
        super().__init__(*args, **kwargs)
        self.local = _Token() if self.thread_local else SimpleNamespace(token=None)

    @property
    def _client(self) -> Any:
        return self.redis if hasattr(self, "redis") else self.valkey

    def register_scripts(self) -> None:
        """Make scripts of this lock's own.

        The library keeps them at its class, once for all: those that its own client has left there know only digests,
        and those of the first facade would keep it alive as long as the process lives.
        """
        register = self._client.register_script
        self.lua_release = register(self.LUA_RELEASE_SCRIPT)  # type: ignore[attr-defined]
        self.lua_extend = register(self.LUA_EXTEND_SCRIPT)  # type: ignore[attr-defined]
        self.lua_reacquire = register(self.LUA_REACQUIRE_SCRIPT)  # type: ignore[attr-defined]

    def acquire(
        self,
        sleep: float | None = None,
        blocking: bool | None = None,
        blocking_timeout: float | None = None,
        token: Any = None,
    ) -> bool:
        """Take the lock, and return whether it was taken.

        Args:
            sleep: Seconds between two attempts. blocking: whether to wait at all. blocking_timeout: seconds to wait at
                most; None: for ever. token: what to write into the key; a UUID if None.

        Blocks: until it is taken, or the time is over. A kill or Timeout between two attempts leaves nothing behind.
        """
        client, pause, waits = self._client, _given(sleep, self.sleep), _given(blocking, self.blocking)
        patience = _given(blocking_timeout, self.blocking_timeout)
        written = uuid.uuid1().hex.encode() if token is None else client.get_encoder().encode(token)
        ends = inf if patience is None else monotonic() + patience
        while not self.do_acquire(written):  # type: ignore[attr-defined]
            if not waits or monotonic() + pause > ends:
                return False
            client.pause(pause)
        self.local.token = written
        return True


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
