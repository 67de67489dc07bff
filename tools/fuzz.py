"""Feed what reads strangers' words with generated input, a million times each: only declared errors may come out.

    python tools/fuzz.py                          all targets, 1,000,000 inputs each, on all processors
    python tools/fuzz.py format url --count 5000  some targets, fewer inputs
    python tools/fuzz.py url --begin 1234 --count 1   input 1234 again: each is made of its number alone

The tests in tests/core do the same with hypothesis and fewer inputs, which it makes smaller when one fails. This is for
a release, and after a change to a parser. Prints the figures, and inputs that met something else; exits with 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import Pool
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from fuzz_inputs import any_descriptions, any_encoded, any_format, any_nodes, any_redirect, any_slots, any_url

from gvcluster import Cluster
from gvcluster.core.address import Address, is_valid_host
from gvcluster.core.descriptions import command_from, described_by_server, described_in
from gvcluster.core.formatting import format_command, parse_command
from gvcluster.core.outcome import Ask, Failed, Moved, classify
from gvcluster.core.resp import encode, reply_error
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
        "url": Target(any_url, _check_url),
        "descriptions": Target(any_descriptions, _check_descriptions),
    }
)

# --- The run ---


def feed(target: Target, numbers: range) -> tuple[Counter[str], list[str]]:
    """Feed the inputs of these numbers. Returns how they ended, and a report of each that ended otherwise."""
    ended: Counter[str] = Counter()
    reports = []
    for number in numbers:
        given = target.generate(Random(number))
        try:
            ended[target.check(given)] += 1
        except Exception:
            ended["something else"] += 1
            reports.append(f"input {number}: {given!r}\n{traceback.format_exc()}")
    return ended, reports


def _feed_named(job: tuple[str, range]) -> tuple[Counter[str], list[str]]:
    return feed(TARGETS[job[0]], job[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--begin", type=int, default=0, help="the number of the first input")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    numbers = range(options.begin, options.begin + options.count)
    with contextlib.ExitStack() as stack:
        spread = map if options.processes == 1 else stack.enter_context(Pool(options.processes)).imap_unordered
        return int(sum(_run(name, numbers, spread) for name in options.targets or TARGETS) > 0)


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
