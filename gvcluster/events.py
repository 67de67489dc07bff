"""What `on_event` is told: frozen records, in the order in which things happened."""

from __future__ import annotations

from gvcluster.records import Record


class Event(Record):
    """The root of all events."""


class Ready(Event):
    """The first slot map is known: commands flow. `route_version` is its number."""

    route_version: int


class SlotMapUpdated(Event):
    """A slot map with other routes was accepted.

    route_version: counts such maps.
    covered: how many slots have an owner, of 16,384.
    primaries, replicas: how many nodes there are of each.
    """

    route_version: int
    covered: int
    primaries: int
    replicas: int


class Closed(Event):
    """The cluster was closed by its user. Nothing follows."""
