"""A group of nodes, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gvcluster.core.address import Address
from gvcluster.errors import NodeError
from gvcluster.testing.agreement import objection
from gvcluster.testing.control import wait_for
from gvcluster.testing.errors import LocalClusterError
from gvcluster.testing.node import Node
from gvcluster.testing.views import View, owner_of
from gvcluster.testing.watchdog import Watchdog


class NodeGroup:
    """The asking half of LocalCluster. What it answers comes from the nodes, each time."""

    _watchdog: Watchdog | None = None
    _nodes: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes ever started, the first primaries first; dead and paused ones too."""
        return self._nodes

    @property
    def addresses(self) -> list[Address]:
        """Where the nodes listen, in the order of `nodes`."""
        return [node.address for node in self._nodes]

    @property
    def seeds(self) -> str:
        """The addresses as a client wants them: `127.0.0.1:p,127.0.0.1:p`."""
        return ",".join(map(str, self.addresses))

    def live_nodes(self) -> list[Node]:
        """List the nodes whose process exists and is not paused.

        Blocks:
            Until the watchdog process has answered: well below a millisecond.
        """
        ended = self._running().exit_codes()
        return [node for node in self._nodes if node.pid not in ended and not node.is_paused]

    def node_at(self, address: Address) -> Node:
        """Find the node that listens, or has listened, there.

        Raises:
            LocalClusterError: It is none of this cluster.
        """
        return self._only(lambda node: node.address == address, f"listens on {address}")

    def command(self, node: Node, *arguments: object, timeout: float = 5.0) -> Any:
        """Run one command on one node, on a connection of its own, without following redirects.

        Args:
            node: One of `nodes`.
            arguments: The command's words: str (sent as UTF-8), bytes, int or float.
            timeout: Seconds for each of connecting, sending and waiting.

        Returns:
            The reply as RESP2 has it: bytes, int, None, or a list of these.

        Raises:
            ReplyError: The node refused, with MOVED or ASK too; `code` is the first word.
            NodeError: It did not answer.

        Blocks:
            Until the reply is in. A kill or Timeout closes the connection; the command may run all the same.
        """
        return node.command(*arguments, timeout=timeout)

    def primary_of(self, slot_or_key: int | str | bytes) -> Node:
        """Ask the live nodes whose a slot is.

        Args:
            slot_or_key: The slot, if it is an int; else the key.

        Returns:
            The owner. A dead or paused one, as long as the live nodes have not replaced it.

        Raises:
            LocalClusterError: Nobody owns the slot.

        Blocks:
            Until the live nodes have answered.
        """
        slot = slot_or_key
        if not isinstance(slot, int):
            slot = self.live_nodes()[0].command("CLUSTER", "KEYSLOT", slot)
        return self._owner(self._views_of_those_who_answer(), slot)

    def primaries(self) -> list[Node]:
        """Ask the live nodes which of them own slots, in the order of `nodes`.

        Blocks:
            Until the live nodes have answered.
        """
        return self._matching(lambda view: view.me.primary_id is None and bool(view.me.slots))

    def replicas_of(self, primary: Node) -> list[Node]:
        """Ask the live nodes which of them are this primary's replicas, in the order of `nodes`.

        Blocks:
            Until the live nodes have answered.
        """
        return self._matching(lambda view: view.me.primary_id == primary.id)

    def wait_until_agreed(self, timeout: float = 20.0) -> None:
        """Wait until the live nodes agree, and each replica could take over.

        That is: `cluster_state:ok` on all; the same CLUSTER SLOTS on all, with all slots, all live replicas, and no
        dead node; all live nodes linked to each other, nobody suspected; the replicas in sync. A dead primary without
        a live replica makes it impossible.

        Args:
            timeout: Seconds.

        Raises:
            ClusterTimeout: They do not agree; the message says on what.

        Blocks:
            Until they agree, at most a second longer than `timeout`.
        """
        wait_for(lambda: objection(self._views()), timeout, f"{self!r} agrees")

    def _running(self) -> Watchdog:
        if self._watchdog is None:
            raise LocalClusterError("the cluster is not started")
        return self._watchdog

    def _wait_until_connected(self, timeout: float, what: str) -> None:
        """As `wait_until_agreed`, but slots without a living owner are none of our business."""
        wait_for(lambda: objection(self._views(), all_slots=False), timeout, what)

    def _views(self) -> list[View]:
        return [node.view() for node in self.live_nodes()]

    def _views_of_those_who_answer(self) -> list[View]:
        seen = []
        for node in self.live_nodes():
            try:
                seen.append(node.view())
            except NodeError:
                pass
        return seen

    def _matching(self, is_wanted: Callable[[View], bool]) -> list[Node]:
        ids = {view.me.id for view in self._views_of_those_who_answer() if is_wanted(view)}
        return [node for node in self._nodes if node.id in ids]

    def _owner(self, seen: list[View], slot: int) -> Node:
        owner = owner_of(seen, slot)
        return self._only(lambda node: node.id == owner, f"owns slot {slot}")

    def _only(self, is_wanted: Callable[[Node], bool], what: str) -> Node:
        for node in self._nodes:
            if is_wanted(node):
                return node
        raise LocalClusterError(f"no node of {self!r} {what}")
