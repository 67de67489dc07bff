"""What one node says of itself: CLUSTER NODES and INFO → Look: which slots are its own, and which come and go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain

from gvcluster.core.address import Address
from gvcluster.core.members import UnusableMap, lines_of, members_of, number_of, spans_of
from gvcluster.core.slots import SLOTS
from gvcluster.records import Record

# The two questions; their replies go to `parse_look`.
QUESTIONS = (("CLUSTER", "NODES"), ("INFO", "server"))
_RUN_ID = r"(?ma)^run_id:(\w+)"
_OPEN_SLOT = r"\[([0-9]{1,5})-([<>])-([^\]]+)\]"


class Look(Record):
    """One node at one moment, in its own words.

    Attributes:
        id: The node's id.
        run: The id of its process: cursors of SCAN mean nothing to another one.
        epoch: Its configuration epoch. A slot that left and came back has raised it.
        is_primary: Whether it is one.
        owned: Its slots.
        leaving: The slots among them that it is giving to another node, key by key, and that node's id.
        arriving: The slots that it is getting in that way, and the id of who gives them.
        others: The slots of the other nodes: first, last, id.
        addresses: Where each node is, by its id.
    """

    id: str
    run: str
    epoch: int
    is_primary: bool
    owned: frozenset[int]
    leaving: Mapping[int, str]
    arriving: Mapping[int, str]
    others: tuple[tuple[int, int, str], ...]
    addresses: Mapping[str, Address]

    def owner_of(self, slot: int) -> str | None:
        """The id of the other node that it believes to own the slot."""
        return next((id_ for first, last, id_ in self.others if first <= slot <= last), None)


def parse_look(nodes: object, info: object, answered_by: Address) -> Look:
    """Read the replies to `QUESTIONS`. What makes no sense in them is skipped.

    Raises:
        UnusableMap: The node does not say which one it is, or it names its slots more than once.
    """
    lines = lines_of(nodes)
    mine = _myself(lines)
    members = {member[0].id: member for member in members_of(lines, answered_by)}
    if mine not in members:
        raise UnusableMap("CLUSTER NODES does not say who answered")
    addresses = {id_: node.address for id_, (node, _, _) in members.items()} | {mine: answered_by}
    me, epoch, words = members.pop(mine)
    return Look(
        id=mine,
        run=run_id(info),
        epoch=epoch,
        is_primary=me.role == "primary",
        owned=_owned(words),
        leaving=_open_slots(words, ">"),
        arriving=_open_slots(words, "<"),
        others=tuple((*span, node.id) for node, _, told in members.values() for span in spans_of(told)),
        addresses=addresses,
    )


def _myself(lines: Iterable[list[str]]) -> str:
    return next((line[0] for line in lines if len(line) > 2 and "myself" in line[2].split(",")), "")


def _owned(words: Iterable[str]) -> frozenset[int]:
    spans = list(spans_of(words))
    if sum(last + 1 - first for first, last in spans) > SLOTS:
        raise UnusableMap("CLUSTER NODES names slots of one node more than once")
    return frozenset(chain.from_iterable(range(first, last + 1) for first, last in spans))


def run_id(info: object) -> str:
    """The id of the server's process, from the reply to INFO; "" if it does not tell."""
    text = info.decode("latin-1") if isinstance(info, bytes) else info
    found = re.search(_RUN_ID, text) if isinstance(text, str) else None
    return found[1] if found else ""


def _open_slots(words: Iterable[str], direction: str) -> dict[int, str]:
    found = (re.fullmatch(_OPEN_SLOT, word) for word in words)
    slots = ((number_of(each[1], 5), each[3]) for each in found if each and each[2] == direction)
    return {slot: id_ for slot, id_ in slots if slot is not None and slot < SLOTS}
