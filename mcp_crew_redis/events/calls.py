"""The scripts that add an event, and what they answer."""

from __future__ import annotations

from typing import Final

from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.keys import KeySpace, MetaKey
from mcp_crew_redis._wire.streams import (
    dead_key,
    mark_key,
    scheduled_bodies_key,
    scheduled_key,
    tally_key,
)
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.events.line import Draft
from mcp_crew_redis.events.making import new_id
from mcp_crew_redis.store.journal.calls import MARK_AT, PUBLISH, SCHEDULE
from mcp_crew_redis.store.journal.entries import Posting

__all__ = [
    "ADDED",
    "DUPLICATE",
    "FULL",
    "JOURNAL",
    "MAX_SCHEDULED",
    "OVERDUE",
    "PURGED",
    "EventCalls",
    "as_of",
]

PURGED, ADDED, DUPLICATE, FULL = range(4)
"""The outcomes of event_publish.lua and event_schedule.lua."""
MAX_SCHEDULED: Final = 100_000
"""Delayed events of one tenant."""
OVERDUE: Final = "event_overdue"
JOURNAL: Final = "-"
"""The group of dead letters and losses that concern none in particular."""
TOO_OLD: Final = (
    "waited in the journal for longer than REDIS_CREW_TOMBSTONE_TTL: whether it was "
    "published already cannot be told any more"
)


class EventCalls:
    """Makes the scripts of events.

    Args:
        keys: Builds keys.
        memory: Seconds that an id is remembered.
    """

    __slots__ = ("_keys", "mark_ms")

    def __init__(self, keys: KeySpace, memory: float) -> None:
        self._keys = keys
        self.mark_ms = max(1, round(memory * 1_000))

    def publish(
        self, draft: Draft, made_us: int = 0, *, is_private: bool = False
    ) -> Call:
        """Return the script that appends an event once.

        Args:
            draft: The event.
            made_us: When it was published; 0 for now.
            is_private: Its mark is of this call, not of its id: others may publish
                that again.
        """
        keys = draft.line.keys
        name = id_text(new_id() if is_private else draft.envelope.id)
        names = draft.stream, mark_key(keys, name), keys.meta(MetaKey.FLOOR)
        return PUBLISH, names, (draft.head, draft.body, self.mark_ms, made_us)

    def schedule(
        self,
        draft: Draft,
        delay_ms: int,
        made_us: int = 0,
        *,
        is_marked: bool = True,
        is_private: bool = False,
    ) -> Call:
        """Return the script that keeps an event for that long; see `publish`."""
        keys, event_id = draft.line.keys, id_text(draft.envelope.id)
        names = (
            scheduled_key(keys),
            scheduled_bodies_key(keys),
            mark_key(keys, id_text(new_id()) if is_private else event_id),
            keys.meta(MetaKey.FLOOR),
            draft.stream,
        )
        mark_ms = self.mark_ms if is_marked else 0
        numbers = delay_ms, MAX_SCHEDULED, mark_ms, made_us
        return SCHEDULE, names, (event_id, draft.head, draft.body, *numbers)

    def overdue(self, posting: Posting, call: Call) -> Call:
        """Return the script that makes a dead letter of what `call` was to add."""
        name, names, args = call
        keys = self._keys.tenant(posting.tenant_id)
        if name == PUBLISH:
            stream, (head, body) = names[0], args[:2]
        else:
            stream, (head, body) = names[4], args[1:3]
        where = (
            dead_key(keys, JOURNAL),
            tally_key(keys, JOURNAL),
            names[MARK_AT[name]],
            keys.meta(MetaKey.FLOOR),
        )
        said = stream, head, body, TOO_OLD, self.mark_ms, posting.made_us
        return OVERDUE, where, said


def as_of(call: Call, made_us: int) -> Call:
    """Return a call as of that time."""
    name, keys, args = call
    return name, keys, (*args[:-1], made_us)
