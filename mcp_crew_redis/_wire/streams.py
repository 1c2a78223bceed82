"""The keys of events: their streams, and what is kept beside those.

    mcp-crew:events:{acme}:tool.discovered:normal      a stream: type and priority lane
    mcp-crew:events:{acme}:order.paid:normal.3         its partition 3 of several
    mcp-crew:events:{acme}:scheduled                   due times of delayed events
    mcp-crew:event:{acme}:dead:indexer                 what nobody looks out for

The bell rings for `events`, so nothing else lives there.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from mcp_crew_redis._wire.identifiers import PLAIN, hashed_identifier
from mcp_crew_redis._wire.keys import STREAM_NAMESPACE, KeySpace, TenantKeys
from mcp_crew_redis.types import DataType

__all__ = [
    "LANES",
    "MAX_PARTITIONS",
    "MAX_TYPE_CHARACTERS",
    "TYPE_GRAMMAR",
    "StreamName",
    "book_key",
    "dead_key",
    "mark_key",
    "parked_key",
    "scheduled_bodies_key",
    "scheduled_key",
    "seen_key",
    "stream_key",
    "stream_name",
    "tally_key",
]

LANES: Final = ("critical", "high", "normal", "low")
"""The priority lanes; a lane's number is its place here."""
MAX_PARTITIONS: Final = 256
MAX_TYPE_CHARACTERS: Final = 128
TYPE_GRAMMAR: Final = r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*"
"""Of an event type's name."""
SCHEDULED: Final = "scheduled"

_STREAM: Final = re.compile(
    rf"({TYPE_GRAMMAR}):({'|'.join(LANES)})(?:\.(0|[1-9][0-9]{{0,2}}))?"
)
_BOOK: Final = DataType.EVENT.value
_MAX_ID: Final = 64  # characters of an event's id that stand in a key as they are
_HASHED: Final = "="


class StreamName(NamedTuple):
    """What the key of a stream says.

    `lane` is 0 (critical) to 3 (low); `partition` is None unless the type has several.
    """

    tenant_id: str
    event_type: str
    lane: int
    partition: int | None = None


def stream_key(
    keys: TenantKeys, event_type: str, lane: int, partition: int | None = None
) -> bytes:
    """Return the key of a stream; the caller has checked the type."""
    end = "" if partition is None else f".{partition}"
    return keys.key(STREAM_NAMESPACE, f"{event_type}:{LANES[lane]}{end}")


def stream_name(space: KeySpace, key: bytes) -> StreamName | None:
    """Invert `stream_key`; None for every key that it cannot have built."""
    parsed = space.parse(key)
    if parsed is None or parsed.namespace != STREAM_NAMESPACE:
        return None
    found = _STREAM.fullmatch(parsed.identifier)
    if found is None or len(found[1]) > MAX_TYPE_CHARACTERS:
        return None
    partition = None if found[3] is None else int(found[3])
    if partition is not None and partition >= MAX_PARTITIONS:
        return None
    return StreamName(parsed.tenant, found[1], LANES.index(found[2]), partition)


def scheduled_key(keys: TenantKeys) -> bytes:
    """Return the sorted set of delayed events: id by due time in milliseconds."""
    return keys.key(STREAM_NAMESPACE, SCHEDULED)


def scheduled_bodies_key(keys: TenantKeys) -> bytes:
    """Return the hash of what is delayed, by id."""
    return keys.key(_BOOK, SCHEDULED)


def book_key(keys: TenantKeys, page: str, name: str) -> bytes:
    """Return a key beside the streams: `page` says what it holds."""
    return keys.key(_BOOK, f"{page}:{name}")


def mark_key(keys: TenantKeys, event_id: str) -> bytes:
    """Return the key that remembers a published id."""
    return book_key(keys, "mark", _short(event_id))


def parked_key(keys: TenantKeys, group: str) -> bytes:
    """Return the sorted set of entries that wait for their next attempt."""
    return book_key(keys, "parked", group)


def dead_key(keys: TenantKeys, group: str) -> bytes:
    """Return the stream of a group's dead letters."""
    return book_key(keys, "dead", group)


def tally_key(keys: TenantKeys, group: str) -> bytes:
    """Return the hash of what a group has counted: redelivered, dead, lost, ..."""
    return book_key(keys, "tally", group)


def seen_key(keys: TenantKeys, group: str, event_id: str) -> bytes:
    """Return the key that remembers an event handled by a group."""
    return book_key(keys, "seen", f"{group}:{_short(event_id)}")


def _short(event_id: str) -> str:
    """Return an id for a key: whole if it is short and plain, else hashed.

    The longest id, encoded, would be longer than a key may be.
    """
    is_plain = PLAIN.fullmatch(event_id) is not None
    if is_plain and len(event_id) <= _MAX_ID and event_id[0] != _HASHED:
        return event_id
    return _HASHED + hashed_identifier(event_id)
