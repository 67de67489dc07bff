"""What the greenlets of one window did, and what the checks say of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from gvcluster.cli.soak.counting import bank_problems, counter_problems
from gvcluster.cli.soak.history import Fate, Op, fate_of
from gvcluster.cli.soak.linear import Undecided, register_problem
from gvcluster.cli.soak.lists import list_problems, queue_problems
from gvcluster.cli.soak.wire import Answer, echo_problems
from gvcluster.cli.tally import Latencies
from gvcluster.core.address import Address
from gvcluster.errors import ConnectionLost, GvClusterError, PartialFailure, ReplyError

# Wrong answers that are kept; more say no more.
_KEPT = 100
# Instead of a shard: a call that went to all of them.
EVERYWHERE = -1
# The name of a ConnectionLost that a client declared: the node had owed replies for too long.
SILENT = "ConnectionLost after silence"
# The accounts under one key, and what each has at the beginning.
ACCOUNTS, MONEY = 5, 100


def is_overheard(who: int) -> bool:
    """Whether a greenlet uses the client whose wire the oracle listens to: those with odd numbers do."""
    return who % 2 == 1


class Book:
    """One window's records. Keys are new in each window, so that its end is the end of their history.

    Attributes:
        name: Part of each key.
        strict: The servers lose nothing that they acknowledge.
        is_rough: Calls may fail, for the fault is none that an administrator orders.
        registers, counters, lists, queues, takes: Operations by key.
        reads: What was read of the accounts, by their key; and of lists.
        scripted: Tokens that a script appends, so that the wire does not show what is done with them.
        wrong: Answers that cannot be. wrong_if_kept: those that can where servers lose what they acknowledged.
        lost: How many ConnectionLost in doubt there were at each address.
        errors: By kind of error and fate. first_errors: the first of each kind, in words.
        latencies: By shard, and those of calls that went to all of them.
        commands: How many ended, those that failed included.
        second: Of all calls since somebody has last put another one here.
        interrupted: How many calls were killed or timed out from outside.
        overshoot: By how much the longest call exceeded what it may take, seconds; negative if none did.
        stall: For how long the hub was late at most, seconds.
    """

    def __init__(self, name: str, *, strict: bool, is_rough: bool = False) -> None:
        self.name, self.strict, self.is_rough = name, strict, is_rough
        self.registers: dict[str, list[Op]] = defaultdict(list)
        self.counters: dict[str, list[Op]] = defaultdict(list)
        self.lists: dict[str, list[Op]] = defaultdict(list)
        self.queues: dict[str, list[Op]] = defaultdict(list)
        self.takes: dict[str, list[Op]] = defaultdict(list)
        self.accounts: dict[str, list[list[int]]] = defaultdict(list)
        self.prefixes: dict[str, list[list[bytes]]] = defaultdict(list)
        self.scripted: set[bytes] = set()
        self.wrong: list[Answer] = []
        self.wrong_if_kept: list[Answer] = []
        self.lost: Counter[Address | None] = Counter()
        self.answers = 0
        self.errors: Counter[tuple[str, Fate]] = Counter()
        self.first_errors: dict[str, str] = {}
        self.latencies: dict[int, Latencies] = defaultdict(Latencies)
        self.second = Latencies()
        self.commands = self.interrupted = 0
        self.overshoot, self.stall = -1.0, 0.0

    def __repr__(self) -> str:
        return f"<Book {self.name}: {self.commands} commands, {sum(self.errors.values())} errors>"

    def expect(self, who: int, command: str, expected: Any, reply: Any, *, if_kept: bool = False) -> None:
        """Compare a reply that is known beforehand; `if_kept`: if the servers keep what they acknowledged."""
        self.answers += 1
        wrong = self.wrong_if_kept if if_kept else self.wrong
        if (type(reply) is not type(expected) or reply != expected) and len(wrong) < _KEPT:
            wrong.append(Answer(who, command, expected, reply))

    def failed(self, command: str, error: GvClusterError, commands: int = 1) -> None:
        """Note an error that was raised."""
        name = name_of(error)
        fate = fate_of(error)
        self.errors[name, fate] += commands
        if fate is Fate.DOUBTFUL and isinstance(error, ConnectionLost):
            self.lost[error.address] += commands
        self.first_errors.setdefault(name, f"{command}: {error}")

    def took(self, shard: int | None, began: float, *, most: float, commands: int = 1) -> None:
        """Note how long a call took that ends now; it may have taken `most` seconds. No shard: it waited on purpose."""
        seconds = monotonic() - began
        self.commands += commands
        if shard is not None:
            self.latencies[shard].add(seconds)
            self.second.add(seconds)
        self.overshoot = max(self.overshoot, seconds - most)

    def asked(self) -> tuple[Counter[bytes], Counter[bytes]]:
        """What was asked for over the wire that the oracle listens to, by token or by key of a counter.

        Returns:
            How often over that wire; and how often over others and not in vain, as far as is known.
        """
        here: Counter[bytes] = Counter()
        elsewhere: Counter[bytes] = Counter()
        for key, ops in self.counters.items():
            token = key.encode()
            here[token] = sum(is_overheard(op.who) for op in ops)
            elsewhere[token] = sum(not is_overheard(op.who) and op.fate is not Fate.NEVER for op in ops)
        for ops in (*self.lists.values(), *self.queues.values()):
            here.update(op.argument for op in ops if is_overheard(op.who) and op.argument not in self.scripted)
        return here, elsewhere

    def problems(self, read: Callable[[str, str], Any]) -> Mapping[str, list[str]]:
        """Check all.

        Args:
            read: `read(kind, key)`: what the servers have in the end: a count, a list, a list of numbers.

        Returns:
            For each check what cannot be, in words; empty lists where all is well.

        Blocks: as `read` does.
        """
        strict = self.strict
        found: dict[str, list[str]] = {"C1": echo_problems([*self.wrong, *(self.wrong_if_kept if strict else ())])}
        found["C2"] = self._register_problems() if strict else []
        found["C3"], found["C4"], found["C6"], found["C7"] = [], [], [], []
        for key, ops in self.counters.items():
            found["C3"] += self._of(key, counter_problems(ops, read("count", key), strict=strict))
        for key, ops in self.lists.items():
            problems = list_problems(ops, read("list", key), self.prefixes[key], strict=strict)
            found["C4"] += self._of(key, problems)
        for key, reads in self.accounts.items():
            final = read("accounts", key)
            found["C6"] += self._of(key, bank_problems([*reads, final], ACCOUNTS * MONEY))
        for key, ops in self.queues.items():
            problems = queue_problems(ops, self.takes[key], read("list", key), strict=strict)
            found["C7"] += self._of(key, problems)
        return found

    def _register_problems(self) -> list[str]:
        found = []
        for key, ops in self.registers.items():
            try:
                problem = register_problem(ops)
            except Undecided as error:
                problem = str(error)
            found += self._of(key, [problem] if problem else [])
        return found

    @staticmethod
    def _of(key: str, problems: list[str]) -> list[str]:
        return [f"{key}: {problem}" for problem in problems]


def name_of(error: GvClusterError) -> str:
    """What a kind of error is called: by its class, and by what tells its kinds apart."""
    name = type(error).__name__
    if isinstance(error, ReplyError):
        return f"{name} {error.code}"
    if isinstance(error, ConnectionLost) and "not a byte" in str(error):
        return SILENT
    if isinstance(error, PartialFailure):
        results = error.results.values() if isinstance(error.results, dict) else error.results
        parts = {name_of(each) for each in results if isinstance(each, GvClusterError)}
        return f"{name} of {', '.join(sorted(parts))}"
    return name
