"""The greenlets of a soak, a class for each kind. They write down what they did, and judge only what they know alone.

A token names its greenlet and the number of the write, and a random part, so that no other reply can look like it.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Unpack

from gvcluster.call_options import CallOptions
from gvcluster.cli.soak.book import ACCOUNTS, Book
from gvcluster.cli.soak.history import Fate, Op, fate_of
from gvcluster.errors import GvClusterError

# Of a call, and of one attempt, seconds.
CALL_TIMEOUT, COMMAND_TIMEOUT = 5.0, 1.0
# Numbers above are of greenlets that are interrupted.
APART = 100_000
_KIB = 1024
# Smallest and largest of the big values, bytes.
_BIG = (64 * _KIB, 512 * _KIB)
# A list is read up to so many tokens.
_PREFIX = 50
# BLPOP waits so many seconds.
_PATIENCE = 1
_LUA_ECHO = "return ARGV[1]"
LUA_APPEND = "return {redis.call('RPUSH', KEYS[1], ARGV[1]), ARGV[1]}"


@dataclass(frozen=True)
class Place:
    """A hash tag, and the number of the shard that its slot is in."""

    shard: int
    tag: str


class Worker:
    """What all kinds have in common.

    Args:
        who: Its number.
        place: Where its keys are.
        client: A Cluster, or what looks like one.
        rng: Draws its steps.

    Attributes:
        spread: At how many places of each shard its kind works.
    """

    spread = 8

    def __init__(self, who: int, place: Place, client: Any, rng: random.Random) -> None:
        self.who, self.place, self.client, self.rng = who, place, client, rng
        self.seq = 0
        self._doubts = 0
        # Victims count and append elsewhere: what they leave in doubt would hide what others did twice.
        self.crowd = "" if who < APART else ":victims"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.who} at {self.place.tag}>"

    def step(self, book: Book) -> None:
        """Do something, and write it down. Errors are in the book then; a kill or Timeout goes on."""
        raise NotImplementedError

    def work(self, book: Book) -> None:
        """Step; a reply that is nothing like what was asked for is wrong, and no end of the greenlet."""
        try:
            self.step(book)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            book.expect(self.who, f"a step of {self!r}", "a reply that fits", f"{type(error).__name__}: {error}")

    def token(self) -> bytes:
        """A value that nobody else writes."""
        self.seq += 1
        return b"%d:%d:%08x" % (self.who, self.seq, self.rng.getrandbits(32))

    def key(self, book: Book, what: str) -> str:
        """A key of this window."""
        return f"{{{self.place.tag}}}:{book.name}:{what}"

    def do(self, book: Book, argument: Any, call: Callable[[], Any], name: str, ops: list[Op] | None = None) -> Op:
        """Make one call, and write it down, whatever becomes of it."""
        began, reply, fate = monotonic(), None, Fate.DOUBTFUL
        seq = self.seq
        try:
            reply = call()
            fate = Fate.DONE
        except GvClusterError as error:
            fate = fate_of(error)
            book.failed(name, error)
        except BaseException:
            book.interrupted += 1
            raise
        finally:
            self._doubts += fate is Fate.DOUBTFUL
            op = Op(self.who, seq, argument, reply, began, monotonic(), fate)
            if ops is not None:
                ops.append(op)
            waits = name == "BLPOP"
            book.took(None if waits else self.place.shard, began, most=CALL_TIMEOUT + (_PATIENCE if waits else 0))
        return op

    def ask(self, book: Book, *command: Any, **options: Unpack[CallOptions]) -> Op:
        """Execute a command whose reply is all that counts."""
        return self.do(book, None, lambda: self.client.execute(*command, **options), command[0])


class Echo(Worker):
    """Asks for what it has sent: tokens, their lengths, lists of them. (C1)"""

    def step(self, book: Book) -> None:
        steps = [self._echo, self._script]
        if book.strict:
            steps += [self._own_key, self._own_list]
        self.rng.choice(steps)(book)

    def _echo(self, book: Book) -> None:
        token = self.token()
        self._expect(book, token, self.ask(book, "ECHO", token, route_key=self.place.tag))

    def _script(self, book: Book) -> None:
        token = self.token()
        self._expect(book, token, self.ask(book, "EVAL", _LUA_ECHO, 1, self.place.tag, token))

    def _own_key(self, book: Book) -> None:
        """A write in doubt may happen later, so that after one the key is another."""
        token, key = self.token(), self.key(book, f"own:{self.who}:{self._doubts}")
        if self.ask(book, "SET", key, token).fate is Fate.DONE:
            self._expect(book, token, self.ask(book, "GET", key), if_kept=True)
            self._expect(book, len(token), self.ask(book, "STRLEN", key), if_kept=True)

    def _own_list(self, book: Book) -> None:
        token, key = self.token(), self.key(book, f"own:{self.who}:{self._doubts}")
        if self.ask(book, "SET", key, token).fate is Fate.DONE:
            self._expect(book, [token, token], self.ask(book, "MGET", key, key), if_kept=True)

    def _expect(self, book: Book, expected: Any, op: Op, *, if_kept: bool = False) -> None:
        if op.fate is Fate.DONE:
            book.expect(self.who, "its own", expected, op.reply, if_kept=if_kept)


class Register(Worker):
    """Writes and reads a key that others write and read too. (C2)"""

    spread = 1

    def step(self, book: Book) -> None:
        key = self.key(book, "register")
        if self.rng.random() < 0.5:
            token = self.token()
            self.do(book, token, lambda: self.client.execute("SET", key, token), "SET", book.registers[key])
        else:
            self.do(book, None, lambda: self.client.execute("GET", key), "GET", book.registers[key])


class Counter(Worker):
    """Increments a key that others increment too. (C3)"""

    spread = 2

    def step(self, book: Book) -> None:
        key = self.key(book, f"count{self.crowd}")
        self.seq += 1
        self.do(book, 1, lambda: self.client.execute("INCR", key), "INCR", book.counters[key])


class Appender(Worker):
    """Appends to a list to which others append too, and reads how it begins. (C4)"""

    def step(self, book: Book) -> None:
        key, token = self.key(book, f"list{self.crowd}"), self.token()
        self.do(book, token, lambda: self.client.execute("RPUSH", key, token), "RPUSH", book.lists[key])
        if self.rng.random() < 0.1:
            read = self.ask(book, "LRANGE", key, 0, _PREFIX - 1)
            if read.fate is Fate.DONE:
                book.expect(self.who, "LRANGE", list, type(read.reply))
                book.prefixes[key].append(list(read.reply))


class Scripted(Worker):
    """Appends by a script, which nodes forget now and then. (C4)"""

    def step(self, book: Book) -> None:
        key, token = self.key(book, f"list{self.crowd}"), self.token()
        script = self.client.script(LUA_APPEND)
        book.scripted.add(token)

        def append() -> Any:
            length, echoed = script(keys=[key], args=[token])
            book.expect(self.who, "the script", token, echoed)
            return length

        self.do(book, token, append, "EVALSHA", book.lists[key])
        if book.is_rough and self.rng.random() < 0.02:
            self.ask(book, "SCRIPT", "FLUSH")


class Banker(Worker):
    """Moves money between accounts in transactions, and counts all of it. (C6)"""

    spread = 1

    def step(self, book: Book) -> None:
        accounts = [self.key(book, f"account:{number}") for number in range(ACCOUNTS)]
        rich, poor = self.rng.sample(range(ACCOUNTS), 2)

        def move(tx: Any) -> None:
            read = tx.execute("MGET", *accounts)
            amount = int(read[rich] or 0) // 2
            tx.append("DECRBY", accounts[rich], amount)
            tx.append("INCRBY", accounts[poor], amount)

        self.do(book, None, lambda: self.client.transaction(move, accounts[rich], accounts[poor]), "EXEC")
        read = self.ask(book, "MGET", *accounts)
        if read.fate is Fate.DONE:
            book.accounts[self.key(book, "account")].append([int(value or 0) for value in read.reply])


class Producer(Worker):
    """Pushes tokens into a queue. (C7)"""

    spread = 1

    def step(self, book: Book) -> None:
        key, token = self.key(book, "queue"), self.token()
        self.do(book, token, lambda: self.client.execute("LPUSH", key, token), "LPUSH", book.queues[key])


class Consumer(Worker):
    """Takes tokens from the queue, and waits for them. (C7)"""

    spread = 1

    def step(self, book: Book) -> None:
        key = self.key(book, "queue")

        def take() -> Any:
            reply = self.client.execute("BLPOP", key, _PATIENCE)
            if reply is not None:
                book.expect(self.who, "BLPOP", [key.encode(), bytes], [reply[0], type(reply[1])])
            return reply and bytes(reply[1])

        self.do(book, None, take, "BLPOP", book.takes[key])


class Big(Worker):
    """Writes and reads values that take many packets, and compares them byte by byte. (C1)"""

    def step(self, book: Book) -> None:
        key, value = self.key(book, f"big:{self.who}:{self._doubts}"), self.rng.randbytes(self.rng.randrange(*_BIG))
        self.seq += 1
        if self.ask(book, "SET", key, value).fate is Fate.DONE and book.strict:
            read = self.ask(book, "GET", key)
            if read.fate is Fate.DONE:
                crc = zlib.crc32(read.reply or b"")
                book.expect(self.who, f"GET of {len(value)} bytes", zlib.crc32(value), crc, if_kept=True)
