"""Feed what reads strangers' words with generated input: only declared errors may come out, in bounded time and memory.

    python tools/fuzz.py                          all targets, 1,000,000 inputs each (pool: days; name the others)
    python tools/fuzz.py format url --count 5000  some targets, fewer inputs
    python tools/fuzz.py url --begin 1234 --count 1   input 1234 again: each is made of its number alone
    python tools/fuzz.py --seconds 60             each group for a minute, two groups at a time, from a random number on
    python tools/fuzz.py --seconds 60 --target t4 one group: t1 maps, t2 formats, t3 redirects and messages, t4 the
                                                  reader, t5 URLs and command tables, t6 pool and connections

The tests in tests/core do the same with hypothesis and fewer inputs, which it makes smaller when one fails. This is for
a release, and after a change to a parser. Prints the figures, and inputs that met something else; exits with 1 then.
Those are written to tests/fuzz/corpus, which an ordinary test feeds again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing import Pool
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import fuzz_corpus
from fuzz_inputs import any_descriptions, any_encoded, any_format, any_nodes, any_push, any_redirect, any_slots, any_url
from fuzz_pool import any_story, check_story
from fuzz_reader import any_wire, check_wire

from gvcluster import Cluster
from gvcluster.core.address import Address, is_valid_host
from gvcluster.core.descriptions import command_from, described_by_server, described_in
from gvcluster.core.formatting import format_command, parse_command
from gvcluster.core.looks import parse_look
from gvcluster.core.outcome import Ask, Failed, Moved, classify
from gvcluster.core.resp import encode, reply_error
from gvcluster.core.subscriptions import Message, parse_item
from gvcluster.core.topology import Topology, UnusableMap, parse_nodes, parse_slots
from gvcluster.errors import ConfigError

ASKED = Address("127.0.0.1", 7000)
_CHUNK = 5000
_SHOWN = 3


class Target(NamedTuple):
    """What is fed: `generate` makes an input, `check` raises if what becomes of it was not declared."""

    generate: Callable[[Random], Any]
    check: Callable[[Any], str]


# --- What may become of them ---


def _check_format(given: tuple[str | bytes, list[Any]]) -> str:
    try:
        command = format_command(given[0], *given[1])
    except ConfigError:
        return "ConfigError"
    _require(bool(command) and bool(command[0]) and all(type(part) is bytes for part in command), "a command")
    return "a command"


def _check_encoded(data: bytes) -> str:
    try:
        args = parse_command(data)
    except ConfigError:
        return "ConfigError"
    _require(encode(args) == data, "the command that was encoded")
    return "a command"


def _check_redirect(text: str) -> str:
    outcome = classify(reply_error(text), 42, ASKED)
    if isinstance(outcome, Moved | Ask):
        _require(outcome.slot == 42, "the slot of the command")
        _require(outcome.address is None or _is_address(outcome.address), "an address that can be one")
    else:
        _require(type(outcome) is Failed, "a redirect, or a failure")
    return type(outcome).__name__


def _check_map(parse: Callable[[Any, Address], Topology], reply: Any) -> str:
    try:
        topology = parse(reply, ASKED)
    except UnusableMap:
        return "UnusableMap"
    _require(len(topology.owners) == 16384 and topology.covered > 0, "a map with slots")
    owners = {topology.owners[slot] for slot in range(0, 16384, 37)}  # to hash all of them takes longer than the rest
    _require(owners <= {*topology.primaries, None}, "owners that are primaries")
    _require(all(_is_address(node.address) for node in topology.nodes), "addresses that can be some")
    return "a map"


def _check_look(reply: Any) -> str:
    try:
        look = parse_look(reply, reply, ASKED)
    except UnusableMap:
        return "UnusableMap"
    slots = [*look.owned, *look.leaving, *look.arriving]
    _require(all(0 <= slot < 16384 for slot in slots), "slots that there are")
    _require(look.addresses[look.id] == ASKED, "the node that was asked")
    return "a look"


def _check_url(url: str) -> str:
    try:
        cluster = Cluster.from_url(url)
    except ConfigError:
        return "ConfigError"
    cluster.close()
    return "a Cluster"


def _check_descriptions(told: Any) -> str:
    met = []
    for read, given in ((described_by_server, told), (described_in, told), (described_in, {"NEW": told})):
        try:
            met += [command_from(described, stranger=True) for described in read(given)]
        except ConfigError:
            continue
    return "commands" if met else "ConfigError"


def _check_push(item: Any) -> str:
    read = parse_item(item, shard=True)
    if isinstance(read, Message):
        _require(type(read.channel) is bytes and type(read.data) is bytes, "bytes")
    return type(read).__name__


def _is_address(address: Address) -> bool:
    return is_valid_host(address.host) and 1 <= address.port <= 65535 and Address.parse(str(address)) == address


def _require(truth: bool, what: str) -> None:
    if not truth:
        raise AssertionError(f"expected {what}")


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "format": Target(any_format, _check_format),
        "encoded": Target(any_encoded, _check_encoded),
        "redirect": Target(any_redirect, _check_redirect),
        "slots": Target(any_slots, lambda reply: _check_map(parse_slots, reply)),
        "nodes": Target(any_nodes, lambda reply: _check_map(parse_nodes, reply)),
        "look": Target(any_nodes, _check_look),
        "url": Target(any_url, _check_url),
        "push": Target(any_push, _check_push),
        "descriptions": Target(any_descriptions, _check_descriptions),
        "reader": Target(any_wire, check_wire),
        "pool": Target(any_story, check_story),
    }
)
# Who runs how many inputs in turn, so that each takes about as long as the others of its group.
GROUPS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "t1": {"slots": 200, "nodes": 200, "look": 200},
        "t2": {"format": 1000, "encoded": 1000},
        "t3": {"redirect": 1000, "push": 1000},
        "t4": {"reader": 100},
        "t5": {"url": 200, "descriptions": 200},
        "t6": {"pool": 10},
    }
)
# What one input may cost: processor time, for others may use the machine. A story waits, and has a bound of its own.
_MOST_SECONDS, _MOST_MEMORY = 5.0, 64 * 1024

# --- The run ---


def feed(target: Target, numbers: range) -> tuple[Counter[str], list[str]]:
    """Feed the inputs of these numbers. Returns how they ended, and a report of each that ended otherwise."""
    ended: Counter[str] = Counter()
    reports = []
    for number in numbers:
        given = target.generate(Random(number))
        try:
            ended[_within_bounds(target, given)] += 1
        except Exception:
            ended["something else"] += 1
            reports.append(f"input {number}: {given!r}\n{traceback.format_exc()}{_kept(target, given)}")
    return ended, reports


def _within_bounds(target: Target, given: Any) -> str:
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = target.check(given)
    _require(time.process_time() - began < _MOST_SECONDS, f"less than {_MOST_SECONDS} s of processor time")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    _require(grown < _MOST_MEMORY, f"less than 64 MiB more, not {grown:,} KiB")
    return end


def _kept(target: Target, given: Any) -> str:
    """Write the input to the corpus, if the target has a name."""
    names = [name for name, known in TARGETS.items() if known is target]
    return f"kept as {fuzz_corpus.keep(names[0], given)}\n" if names else ""


def feed_for(group: str, seconds: float, begin: int) -> tuple[str, Counter[str], list[str]]:
    """Feed the targets of a group in turn for so long. Returns its name, how inputs ended, and the reports."""
    ends, ended, reports = time.monotonic() + seconds, Counter[str](), list[str]()
    while not ended or (time.monotonic() < ends and len(reports) < _SHOWN):
        for name, count in GROUPS[group].items():
            counted, reported = feed(TARGETS[name], range(begin, begin + count))
            ended.update({f"{name}: {end}": times for end, times in counted.items()})
            reports += reported
        begin += max(GROUPS[group].values())
    return group, ended, reports


def _feed_named(job: tuple[str, range]) -> tuple[Counter[str], list[str]]:
    return feed(TARGETS[job[0]], job[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.seconds is not None:
        return _run_groups(options.target or list(GROUPS), options.seconds, options.begin, options.processes)
    begin = options.begin or 0
    numbers = range(begin, begin + options.count)
    with contextlib.ExitStack() as stack:
        spread = map if options.processes == 1 else stack.enter_context(Pool(options.processes)).imap_unordered
        return int(sum(_run(name, numbers, spread) for name in options.targets or TARGETS) > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--begin", type=int, help="the number of the first input; 0, or with --seconds any")
    parser.add_argument("--seconds", type=float, help="feed each group for so long instead")
    parser.add_argument("--target", action="append", choices=list(GROUPS), help="with --seconds: only this group")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    return parser


def _run_groups(groups: Sequence[str], seconds: float, begin: int | None, processes: int) -> int:
    begin = Random().randrange(10**12) if begin is None else begin
    print(f"from input {begin} on: the same again with --begin {begin}", flush=True)
    found = 0
    with contextlib.ExitStack() as stack:
        spread = map if processes == 1 else stack.enter_context(Pool(processes)).imap
        for group, ended, reports in spread(partial(feed_for, seconds=seconds, begin=begin), groups):
            figures = ", ".join(f"{count:,} {end}" for end, count in sorted(ended.items()))
            print(f"{group}: {ended.total():,} inputs in {seconds:.0f} s: {figures}", flush=True)
            print("\n".join(reports[:_SHOWN]), end="", file=sys.stderr)
            found += len(reports)
    return int(found > 0)


def _run(name: str, numbers: range, spread: Callable[..., Iterable[tuple[Counter[str], list[str]]]]) -> int:
    """Feed one target and print the figures. Returns how many inputs met something else."""
    began, ended, reports = time.monotonic(), Counter[str](), list[str]()
    jobs = [(name, numbers[i : i + _CHUNK]) for i in range(0, len(numbers), _CHUNK)]
    for counted, reported in spread(_feed_named, jobs):
        ended += counted
        reports += reported
    figures = ", ".join(f"{count:,} {end}" for end, count in ended.most_common())
    print(f"{name}: {ended.total():,} inputs in {time.monotonic() - began:.0f} s: {figures}", flush=True)
    print("\n".join(reports[:_SHOWN]), end="", file=sys.stderr)
    return len(reports)


if __name__ == "__main__":
    raise SystemExit(main())
