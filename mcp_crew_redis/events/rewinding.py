"""`rewind`: a group gets what it had already, or skips what it has not."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NamedTuple

from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import DataError
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.kinds import Pattern, check_group
from mcp_crew_redis.events.scanning import Scanner

__all__ = ["rewind"]

BATCH: Final = 64
"""Streams of one round trip."""
_LAST: Final = 2**64 - 1  # the greatest number within a millisecond
_PLACE: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,20})")


class _Place(NamedTuple):
    """Where a group goes on: after this id; how many come before it, -1: unknown."""

    id: str
    read: int = -1


async def rewind(
    hub: EventHub, keys: TenantKeys, group: str, pattern: str, to: datetime | str
) -> int:
    """Have a group go on at another place in the streams of some types.

    What is pending stays pending, and is handled besides. A group with `dedup=True`
    skips what it remembers.

    Args:
        hub: What the rooms of the events share.
        keys: The tenant's.
        group: Which group.
        pattern: Which types.
        to: A time with a time zone, or the place of an event (`Event.stream_id`): it
            and everything after it is delivered; "earliest": everything that is
            retained; "latest": only what comes from now on.

    Returns:
        In how many streams the group went to another place: those that it has read.

    Raises:
        InvalidEventTypeError: The pattern is not one.
        InvalidIdentifierError: The group's name is not one.
        DataError: `to` is none of these.
        UnavailableError: Redis did not answer; the group may have moved in some.
    """
    check_group(group)
    wanted, place = Pattern(pattern), _place(to)
    port = hub.port
    scanner = Scanner(port, hub.store.registry, hub.catalog)
    streams = list(await scanner.streams(keys, wanted))
    hub.used()
    count = 0
    for start in range(0, len(streams), BATCH):
        calls: list[Call] = [
            ("event_rewind", (key,), (group, *place))
            for key in streams[start : start + BATCH]
        ]
        for reply in await port.run_many(calls):
            if isinstance(reply, Exception):
                raise reply
            count += reply
    return count


def _place(to: object) -> _Place:
    if isinstance(to, datetime):
        if to.tzinfo is None:
            raise DataError("a time to rewind to has a time zone")
        return _before(max(0, round(to.timestamp() * 1_000)), 0)
    if to == "earliest":
        return _Place("0-0", 0)
    if to == "latest":
        return _Place("$")
    found = _PLACE.fullmatch(to) if isinstance(to, str) else None
    if found is None or int(found[2]) > _LAST:
        raise DataError(
            'rewind to a datetime, the stream_id of an event, "earliest" or "latest"'
        )
    return _before(int(found[1]), int(found[2]))


def _before(ms: int, number: int) -> _Place:
    """Return the place right before an id."""
    if number:
        return _Place(f"{ms}-{number - 1}")
    return _Place(f"{ms - 1}-{_LAST}") if ms else _Place("0-0", 0)
