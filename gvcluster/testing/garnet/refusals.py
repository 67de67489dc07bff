"""What Garnet answers to arguments that make no sense to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gvcluster.core.slots import SLOTS
from gvcluster.errors import ReplyError

if TYPE_CHECKING:
    from gvcluster.testing.garnet.node import GarnetNode


class Wrong(ReplyError):
    """What is answered instead."""


def slot_of(text: bytes) -> int:
    """A slot as an argument."""
    if not text.isdigit():
        raise Wrong("ERR Invalid or out of range slot")
    if int(text) >= SLOTS:
        raise Wrong("ERR Slot out of range")
    return int(text)


def known(node: GarnetNode, id_: bytes) -> str:
    """The id of a node that this one knows."""
    if id_.decode() not in node.config.workers:
        raise Wrong(f"ERR I don't know about node {id_.decode()}.")
    return id_.decode()
