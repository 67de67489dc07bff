"""How `gvcluster topology` looks: bars on a terminal, a line for each node elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from gvcluster.cli.inspect.facts import write_ranges
from gvcluster.cli.inspect.findings import counted
from gvcluster.cli.inspect.overview import Member, Overview, Shard
from gvcluster.core.slots import SLOTS

# So many cells, each for 512 slots: with all else it fits into 80 columns.
_CELLS = 32
_FULL, _PART, _NONE = "█", "▒", "·"
# Ranges of one shard on a terminal.
_RANGES = 2


def picture(overview: Overview) -> RenderableType:
    """For a terminal."""
    parts: list[Text] = [_heading(overview)]
    for shard in overview.shards:
        parts.append(Text())
        parts.append(_bar(f"shard {shard.number}", shard.slots, "green"))
        parts.extend(map(_line, shard.members))
    if overview.uncovered:
        parts += [Text(), _bar("nobody", overview.uncovered, "bold red")]
    return Group(*parts)


def moment(time: str, overview: Overview | None, trouble: str) -> RenderableType:
    """For a terminal that is watched: the picture and when it was taken, or why there is none."""
    what = picture(overview) if overview is not None else Text(trouble, "bold red")
    return Group(what, Text(f"\n{time}  Ctrl-C ends", "dim"))


def lines(overview: Overview) -> Iterable[str]:
    """For a pipe: one node a line, `-` for what is not known."""
    for shard in overview.shards:
        for member in shard.members:
            yield _fields(shard, member)
    if overview.uncovered:
        yield f"uncovered slots={len(overview.uncovered)} ranges={_packed(overview.uncovered)}"


def _heading(overview: Overview) -> Text:
    covered = SLOTS - len(overview.uncovered)
    style = "bold red" if overview.uncovered else "bold"
    counts = f"{counted(overview.shards, 'shard')}, {counted(overview.count, 'node')}"
    versions = f", {', '.join(overview.versions)}" if overview.versions else ""
    return Text.assemble((f"{covered} of {SLOTS} slots", style), f", {counts}{versions}")


def _bar(name: str, slots: Iterable[int], style: str) -> Text:
    owned = set(slots)
    cells = [sum(slot in owned for slot in range(at, at + SLOTS // _CELLS)) for at in range(0, SLOTS, SLOTS // _CELLS)]
    text = Text(f"{name:9}", "bold")
    for count in cells:
        text.append(_NONE if not count else _FULL if count == SLOTS // _CELLS else _PART, style if count else "dim")
    text.append(f" {len(owned):5} slots  ", "not bold")
    return text.append(write_ranges(sorted(owned), _RANGES), "not bold dim")


def _line(member: Member) -> Text:
    node = member.node
    text = Text.assemble(f"  {node.role:7} ", (str(node.address), "cyan" if node.role == "primary" else ""))
    for value in (node.hostname, node.availability_zone and f"zone {node.availability_zone}", member.version):
        if value:
            text.append(f"  {value}", "dim")
    if member.trouble:
        text.append(f"  {member.trouble.removeprefix(f'no connection to {node.address}: ')}", "red")
    return text


def _fields(shard: Shard, member: Member) -> str:
    node = member.node
    fields = {
        "id": node.id,
        "slots": str(len(shard.slots)),
        "ranges": _packed(shard.slots),
        "zone": node.availability_zone,
        "hostname": node.hostname,
        "version": member.version.replace(" ", "-"),
        "state": "unreachable" if member.trouble else "ok",
    }
    told = " ".join(f"{name}={value or '-'}" for name, value in fields.items())
    return f"shard={shard.number} {node.role} {node.address} {told}"


def _packed(slots: Iterable[int]) -> str:
    return write_ranges(slots).replace(" ", "")
