"""What the agents noted of their events, compared with what stands in the streams.

It knows nothing of how events travel. A group has to have handled every event that was
accepted and that it wants, except those that an operator has purged; an event stands in
its tenant's stream once, and once more for each replay; and of two events of a process
in one stream the first to be accepted stands first, unless both were under way at once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeAlias

from mcp_crew_redis.cli.talk import Heard, Said, Talk

__all__ = [
    "GroupCount",
    "Operator",
    "Stream",
    "StreamCount",
    "count_group",
    "count_streams",
]

Stream: TypeAlias = tuple[str, str, int]
"""Tenant, type and lane."""


@dataclass(slots=True)
class Operator:
    """What was done by hand with dead letters.

    Attributes:
        dead: Names of the events that became dead letters.
        replayed: Those that were given back to their streams.
        purged: Those that were thrown away.
    """

    dead: set[str] = field(default_factory=set)
    replayed: set[str] = field(default_factory=set)
    purged: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCount:
    """What became of the events that one group wants.

    Attributes:
        published: Accepted from whoever published them.
        handled: Of those, handled at least once.
        redelivered: Calls with an event that the group had had before.
        repeated: Calls that handled an event which had been handled.
        purged: Dead letters that were thrown away.
        lost: Neither handled nor purged.
        strangers: Handled though never published, not wanted or another tenant's.
    """

    published: int
    handled: int
    redelivered: int
    repeated: int
    purged: int
    lost: int
    strangers: int

    @property
    def is_balanced(self) -> bool:
        """Whether every event is accounted for, and nothing else came."""
        is_all = self.published == self.handled + self.purged
        return is_all and not (self.lost or self.strangers or self.repeated)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCount:
    """What stands in the streams.

    Attributes:
        entries: All of them.
        missing: Accepted events that do not stand as often as they should.
        repeated: Entries beyond that.
        foreign: Entries that nobody published there.
        misplaced: Entries that stand before one which was accepted earlier.
    """

    entries: int
    missing: int
    repeated: int
    foreign: int
    misplaced: int

    @property
    def is_right(self) -> bool:
        """Whether each stands where and as often as it should, in order."""
        return not (self.missing or self.repeated or self.foreign or self.misplaced)


def count_group(
    talk: Talk,
    group: str,
    wanted: Sequence[str],
    purged: AbstractSet[str] = frozenset(),
) -> GroupCount:
    """Count for one group; `wanted` is what the types that it wants begin with."""
    said = {
        one.event_id: one for one in talk.said if one.type.startswith(tuple(wanted))
    }
    accepted = {name for name, one in said.items() if one.outcome != "failed"}
    calls = [one for one in talk.heard if one.group == group]
    handled = Counter(one.event_id for one in calls if not one.failure)
    return GroupCount(
        published=len(accepted),
        handled=len(accepted & handled.keys()),
        redelivered=sum(one.delivery > 1 for one in calls),
        repeated=sum(handled.values()) - len(handled),
        purged=len(purged & accepted - handled.keys()),
        lost=len(accepted - handled.keys() - purged),
        strangers=sum(_is_strange(one, said) for one in calls),
    )


def _is_strange(heard: Heard, said: Mapping[str, Said]) -> bool:
    one = said.get(heard.event_id)
    return one is None or not one.tenant_id == heard.tenant_id == heard.meant_for


def count_streams(
    said: Iterable[Said],
    stands: Mapping[Stream, Sequence[str]],
    replayed: AbstractSet[str] = frozenset(),
) -> StreamCount:
    """Compare what was published with the names that stand in each stream."""
    by_stream: dict[Stream, dict[str, Said]] = defaultdict(dict)
    for one in said:
        by_stream[one.tenant_id, one.type, one.lane][one.event_id] = one
    missing = repeated = foreign = misplaced = 0
    for stream in by_stream.keys() | stands.keys():
        own, names = by_stream.get(stream, {}), stands.get(stream, ())
        found = Counter(names)
        for name, one in own.items():
            due = 1 + (name in replayed)
            is_due = one.outcome != "failed" or found[name] > 0
            missing += is_due and found[name] < due
            repeated += max(0, found[name] - due)
        foreign += sum(times for name, times in found.items() if name not in own)
        misplaced += _misplaced(
            [own[name] for name in dict.fromkeys(names) if name in own]
        )
    entries = sum(len(names) for names in stands.values())
    return StreamCount(
        entries=entries,
        missing=missing,
        repeated=repeated,
        foreign=foreign,
        misplaced=misplaced,
    )


def _misplaced(standing: Sequence[Said]) -> int:
    """Count those behind one of their process that began after they had returned."""
    latest: dict[str, float] = {}
    count = 0
    for one in standing:
        began = latest.get(one.process, one.began)
        count += one.ended < began
        latest[one.process] = max(began, one.began)
    return count
