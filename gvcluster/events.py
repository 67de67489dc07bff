"""What `on_event` is told: frozen records, in the order in which things happened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """The root of all events."""


@dataclass(frozen=True, slots=True)
class Ready(Event):
    """The first slot map is known: commands flow."""

    route_version: int


@dataclass(frozen=True, slots=True)
class SlotMapUpdated(Event):
    """A slot map with other routes was accepted.

    `covered` counts the slots that have an owner (of 16,384), `primaries` and `replicas` the nodes.
    """

    route_version: int
    covered: int
    primaries: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Closed(Event):
    """The cluster was closed by its user. Nothing follows."""
