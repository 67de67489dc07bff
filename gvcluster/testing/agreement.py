"""What stands against "these nodes agree, and a failover would work". Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

from gvcluster.testing.views import View

SLOTS = 16384
# With these flags a node is not, or not yet, a member like the others.
_ABSENT = frozenset({"fail", "fail?", "handshake", "noaddr"})


def objection(views: Sequence[View], *, all_slots: bool = True) -> str | None:
    """Say what stands against it, or None.

    Args:
        views: The views of all nodes that live, primaries and replicas.
        all_slots: Also insist on `cluster_state:ok` everywhere and a living owner of every slot.
    """
    if not views:
        return "no node is running"
    return next(_objections(views, all_slots), None)


def _objections(views: Sequence[View], all_slots: bool) -> Iterator[str]:
    for view in views:
        yield from _about_state(view, views, all_slots)
    for view, other in permutations(views, 2):
        yield from _about_acquaintance(view, other)
    for view in views[1:]:
        if view.slot_map != views[0].slot_map:
            yield f"{view} and {views[0]} differ in CLUSTER SLOTS"
    # From here on, the first node's slot map is everybody's.
    yield from _about_replicas(views)
    if all_slots:
        yield from _about_slots(views)


def _about_state(view: View, views: Sequence[View], all_slots: bool) -> Iterator[str]:
    if not view.is_ok and all_slots:
        yield f"{view} says cluster_state:fail"
    if view.is_ok != views[0].is_ok:
        yield f"{view} and {views[0]} differ in cluster_state"
    if not view.has_synced and view.me.primary_id in {other.me.id for other in views}:
        yield f"{view} has no replication link to its primary"


def _about_acquaintance(view: View, other: View) -> Iterator[str]:
    """Each node must know each other node, as what it is, and have a link to it."""
    known = view.members.get(other.me.id)
    if known is None:
        yield f"{view} does not know {other}"
    elif known.flags & _ABSENT:
        yield f"{view} sees {other} as {','.join(sorted(known.flags))}"
    elif not known.is_linked:
        yield f"{view} has no link to {other}"
    elif known.primary_id != other.me.primary_id:
        yield f"{view} does not know yet what {other} is: primary, or replica of whom"


def _about_replicas(views: Sequence[View]) -> Iterator[str]:
    """CLUSTER SLOTS hides a replica until its first replication ping."""
    shards = {primary: replicas for _, _, primary, replicas in views[0].slot_map}
    for view in views:
        primary_id = view.me.primary_id
        if primary_id is not None and view.me.id not in shards.get(primary_id, {view.me.id}):
            yield f"CLUSTER SLOTS does not show the replica {view} yet"


def _about_slots(views: Sequence[View]) -> Iterator[str]:
    living = {view.me.id for view in views}
    covered = 0
    for first, last, primary, replicas in views[0].slot_map:
        covered += last - first + 1
        if strangers := {primary, *replicas} - living:
            yield f"CLUSTER SLOTS shows for slot {first} what does not run: {', '.join(sorted(strangers))}"
    if covered != SLOTS:
        yield f"CLUSTER SLOTS covers {covered} of {SLOTS} slots"
