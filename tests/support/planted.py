"""A client without a network, honest or with one planted bug: what the checks of the soak are tried on.

It answers like a cluster, out of memory, with a pause before and after each command takes effect, so that greenlets get
in each other's way; and some calls fail, before or after the effect.
"""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

import gevent

from gvcluster import ConnectFailed, ConnectionLost
from gvcluster.cli.soak.scene import oracle_token

_PAUSES = (0.0, 0.0, 0.001, 0.002)


class HonestClient:
    """Does what it says. `sent` is what the wire oracle would have counted."""

    def __init__(self, seed: int = 1, *, losses: float = 0.1) -> None:
        self.rng = random.Random(seed)
        self.losses = losses
        self.values: dict[str, Any] = {}
        self.lists: dict[str, deque[bytes]] = defaultdict(deque)
        self.sent: Counter[Any] = Counter()

    # -- what the workers call ----------------------------------------------------------------------------------------

    def execute(self, *command: Any, **_options: Any) -> Any:
        """One command."""
        return self.reply(self.attempt(command))

    def script(self, _source: str) -> Callable[..., Any]:
        """The one that appends."""

        def call(*, keys: list[str], args: list[bytes]) -> Any:
            return [self.execute("RPUSH", keys[0], args[0]), args[0]]

        return call

    def transaction(self, function: Callable[[Any], object], *_keys: str) -> list[Any]:
        """Nobody comes in between: there is no pause."""
        tx = Collected(self.effect)
        function(tx)
        self.fail(0.5)
        replies = self.commit(tx.commands)
        self.pause()
        self.fail(1.0)
        return replies

    def pipeline(self) -> "MemoryPipeline":
        """All at once."""
        return MemoryPipeline(self)

    # -- where the bugs are planted -----------------------------------------------------------------------------------

    def attempt(self, command: tuple[Any, ...]) -> Any:
        """Send it, let it take effect, and lose the reply now and then."""
        self.pause()
        self.fail(0.5)
        self.send(command)
        reply = self.effect(*command)
        self.pause()
        self.fail(1.0)
        return reply

    def fail(self, executed: float) -> None:
        """Raise an error now and then."""
        if self.rng.random() < self.losses / 2:
            if executed == 1.0:
                raise ConnectionLost("lost", maybe_executed=True)
            raise ConnectFailed("refused")

    def reply(self, reply: Any) -> Any:
        """Hand it over to the caller."""
        return reply

    def commit(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """All of a transaction."""
        return [self.effect(*command) for command in commands]

    def send(self, command: tuple[Any, ...]) -> None:
        """Put it on the wire."""
        words = tuple(word if isinstance(word, bytes) else str(word).encode() for word in command)
        token = oracle_token(words)
        if token is not None:
            self.sent[token] += 1

    def pause(self) -> None:
        """Let the others run."""
        gevent.sleep(self.rng.choice(_PAUSES))

    # -- the server ---------------------------------------------------------------------------------------------------

    def effect(self, name: str, *args: Any) -> Any:
        """What the server does, at once."""
        return getattr(self, f"_{name.lower()}")(*args)

    def read(self, kind: str, key: str) -> Any:
        """As Truth does."""
        if kind == "count":
            return self.values.get(key, 0)
        if kind == "list":
            return list(self.lists[key])
        return [self.values.get(f"{key}:{number}", 100) for number in range(5)]

    def _echo(self, token: bytes) -> bytes:
        return token

    def _eval(self, _source: str, _keys: int, _key: str, token: bytes) -> bytes:
        return token

    def _set(self, key: str, value: bytes) -> bytes:
        self.values[key] = value
        return b"OK"

    def _get(self, key: str) -> Any:
        return self.values.get(key)

    def _strlen(self, key: str) -> int:
        return len(self.values.get(key, b""))

    def _mget(self, *keys: str) -> list[Any]:
        return [self.values.get(key, 100 if ":account:" in key else None) for key in keys]

    def _incr(self, key: str) -> int:
        return self._incrby(key, 1, 0)

    def _incrby(self, key: str, amount: int, start: int = 100) -> int:
        self.values[key] = self.values.get(key, start) + amount
        return int(self.values[key])

    def _decrby(self, key: str, amount: int) -> int:
        return self._incrby(key, -amount)

    def _rpush(self, key: str, token: bytes) -> int:
        self.lists[key].append(token)
        return len(self.lists[key])

    def _lpush(self, key: str, token: bytes) -> int:
        self.lists[key].appendleft(token)
        return len(self.lists[key])

    def _lrange(self, key: str, first: int, last: int) -> list[bytes]:
        return list(self.lists[key])[first : last + 1]

    def _blpop(self, key: str, _seconds: int) -> Any:
        return [key.encode(), self.lists[key].popleft()] if self.lists[key] else None


class Collected:
    """A transaction that is being made."""

    def __init__(self, read: Callable[..., Any]) -> None:
        self.execute = read
        self.commands: list[tuple[Any, ...]] = []

    def append(self, *command: Any) -> None:
        """Add a command."""
        self.commands.append(command)


class MemoryPipeline:
    """Commands that fail one by one."""

    def __init__(self, client: HonestClient) -> None:
        self._client, self._commands = client, list[tuple[Any, ...]]()

    def __enter__(self) -> "MemoryPipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.clear()

    def append(self, *command: Any, **_options: Any) -> None:
        """Add a command."""
        self._commands.append(command)

    def execute(self) -> list[Any]:
        """Each to its own end."""
        replies: list[Any] = []
        for command in self._commands:
            try:
                replies.append(self._client.reply(self._client.attempt(command)))
            except (ConnectionLost, ConnectFailed) as error:
                replies.append(error)
        return replies


# -- planted bugs -----------------------------------------------------------------------------------------------------


class SwapsReplies(HonestClient):
    """Gives a call now and then the reply that another one should have had. (redis-py #2665 and its like)"""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._last: Any = b"nothing yet"

    def reply(self, reply: Any) -> Any:
        last, self._last = self._last, reply
        return last if self.rng.random() < 0.02 else reply


class SendsTwice(HonestClient):
    """Sends a command whose reply was lost again, whatever it does."""

    def execute(self, *command: Any, **_options: Any) -> Any:
        try:
            return super().execute(*command)
        except ConnectionLost:
            return super().execute(*command)


class SendsTwiceUnnoticed(HonestClient):
    """The same where the server was lucky: it never got the first one, so that only the wire tells."""

    def attempt(self, command: tuple[Any, ...]) -> Any:
        self.send(command)
        return super().attempt(command)


class DeniesWhatRan(HonestClient):
    """Says of a command whose reply was lost that it was not executed."""

    def execute(self, *command: Any, **_options: Any) -> Any:
        try:
            return super().execute(*command)
        except ConnectionLost as error:
            raise ConnectFailed("nothing was sent, says this liar") from error


class AcknowledgesTooEarly(HonestClient):
    """Says OK to a write that never reaches the server."""

    def effect(self, name: str, *args: Any) -> Any:
        if name in ("SET", "INCR", "RPUSH", "LPUSH") and self.rng.random() < 0.2:
            return {"SET": b"OK", "INCR": len(self.lists) + 1}.get(name, len(self.lists[args[0]]) + 1)
        return super().effect(name, *args)


class ReadsOldValues(HonestClient):
    """Answers a read from what it has seen some time ago: a cache, or a replica that is behind."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._old: dict[str, Any] = {}

    def _set(self, key: str, value: bytes) -> bytes:
        self._old[key] = self.values.get(key)
        return super()._set(key, value)

    def _get(self, key: str) -> Any:
        return self._old.get(key) if self.rng.random() < 0.5 and key.endswith("register") else super()._get(key)


class HalfTransactions(HonestClient):
    """Executes some transactions to the half."""

    def commit(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        return super().commit(commands[:1] if self.rng.random() < 0.2 else commands)


class DeliversTwice(HonestClient):
    """Gives a token of a queue to two consumers."""

    def _blpop(self, key: str, seconds: int) -> Any:
        popped = super()._blpop(key, seconds)
        if popped and self.rng.random() < 0.1:
            self.lists[key].appendleft(popped[1])
        return popped


class DropsWhatItTook(HonestClient):
    """Takes a token, and says that there was none."""

    def _blpop(self, key: str, seconds: int) -> Any:
        popped = super()._blpop(key, seconds)
        return None if self.rng.random() < 0.3 else popped


class Overtakes(HonestClient):
    """Lets a later write of the same greenlet overtake an earlier one, which it has acknowledged already."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._late: dict[str, bytes] = {}

    def _rpush(self, key: str, token: bytes) -> int:
        late = self._late.pop(key, None)
        if late is None and self.rng.random() < 0.1:
            self._late[key] = token
            return len(self.lists[key]) + 1
        super()._rpush(key, token)
        return super()._rpush(key, late) if late is not None else len(self.lists[key])
