"""Where a scan stands, as text that can be stored, and read by another process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gvcluster.core.slots import SLOTS
from gvcluster.errors import ConfigError
from gvcluster.records import Record

_PREFIX = "scan1-"
# Every second slot covered, every fourth wanted: no true one is longer.
_LONGEST = 262144
_WRONG = "cursor must be the text that `cursor` of such an iterator gave"


class Place(Record):
    """In the midst of one node's sweep: the node, its process and epoch, where, and for which slots."""

    id: str
    run: str
    epoch: int
    cursor: bytes
    slots: frozenset[int]


def write_cursor(done: Iterable[int], place: Place | None, filters: bytes) -> str:
    """The text for these covered slots and this place. `filters`: whatever must be the same when it is read."""
    import json
    import zlib
    from base64 import urlsafe_b64encode

    at = [place.id, place.run, place.epoch, place.cursor.decode("ascii"), _spans(place.slots)] if place else None
    told = json.dumps([_spans(done), at, zlib.crc32(filters)], separators=(",", ":"))
    return _PREFIX + urlsafe_b64encode(zlib.compress(told.encode())).decode()


def read_cursor(text: object, filters: bytes) -> tuple[frozenset[int], Place | None]:
    """The covered slots and the place that the text tells.

    Raises:
        ConfigError: No such text, or one of a scan with other filters.
    """
    import json
    import zlib
    from base64 import urlsafe_b64decode

    if not isinstance(text, str):
        raise ConfigError(f"{_WRONG}, not {type(text).__name__}")
    if not text.startswith(_PREFIX):
        raise ConfigError(_WRONG)
    try:
        unpacked = zlib.decompressobj()
        told = unpacked.decompress(urlsafe_b64decode(text.removeprefix(_PREFIX)), _LONGEST)
        if not unpacked.eof:
            raise ValueError("cut off")
        spans, at, checksum = json.loads(told)
        done, place = _slots(spans), _place(at)
    except (ValueError, TypeError, RecursionError, zlib.error):
        raise ConfigError(f"{_WRONG}: this one is damaged") from None
    if checksum != zlib.crc32(filters):
        raise ConfigError("cursor belongs to a scan with another match= or type=")
    return done, place


def _place(at: Any) -> Place | None:
    if at is None:
        return None
    id_, run, epoch, cursor, spans = at
    if not all(isinstance(text, str) for text in (id_, run, cursor)) or type(epoch) is not int:
        raise TypeError
    if not cursor.isdigit() or int(cursor) >= 2**64:
        raise ValueError  # no server takes it
    return Place(id_, run, epoch, cursor.encode("ascii"), _slots(spans))


def _spans(slots: Iterable[int]) -> list[list[int]]:
    """First and last slot of each run without a gap."""
    spans: list[list[int]] = []
    for slot in sorted(slots):
        if spans and spans[-1][1] == slot - 1:
            spans[-1][1] = slot
        else:
            spans.append([slot, slot])
    return spans


def _slots(spans: Any) -> frozenset[int]:
    slots: set[int] = set()
    end = 0
    for first, last in spans:
        if type(first) is not int or type(last) is not int or not end <= first <= last < SLOTS:
            raise ValueError
        slots.update(range(first, last + 1))
        end = last + 1
    return frozenset(slots)
