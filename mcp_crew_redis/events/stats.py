"""How the groups of a tenant stand: what waits, for how long, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.streams import StreamName, tally_key
from mcp_crew_redis.errors import CrewRedisError, DataError
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.kinds import EventPriority, Pattern, check_group
from mcp_crew_redis.events.scanning import CHUNK, Scanner, place_of

__all__ = ["GroupStats", "group_stats"]

COUNTED: Final = ("redelivered", "dead", "lost", "expired", "duplicates")
_PRIORITIES: Final = tuple(EventPriority)
_ALL: Final = Pattern(">")

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStats:
    """One group and one stream: a type's lane, or a partition of it.

    What was counted (`redelivered` to `duplicates`) is of the group as a whole, in all
    streams of the tenant, and is kept for 30 days after the last count.

    Attributes:
        group: The group's name.
        event_type: What the stream holds.
        priority: The lane.
        partition: Its number; None where the type has but one.
        length: Entries of the stream.
        pending: Delivered to somebody of the group and not acknowledged.
        lag: Not delivered to the group yet; None where Redis does not know.
        oldest_age: Seconds since the oldest event was published that the group has not
            acknowledged; 0.0 when there is none.
        consumers: Processes that Redis knows of in the group, gone ones included.
        redelivered: Deliveries after the first.
        dead: Events that became dead letters.
        lost: Events that went before they were handled.
        expired: Events that nobody needed any more when their turn came.
        duplicates: Events that came again after they had been handled.
    """

    group: str
    event_type: str
    priority: EventPriority
    partition: int | None
    length: int
    pending: int
    lag: int | None
    oldest_age: float
    consumers: int
    redelivered: int
    dead: int
    lost: int
    expired: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A group of a stream, as XINFO has it."""

    key: bytes
    name: StreamName
    group: str
    info: Mapping[bytes, Any]


async def group_stats(
    hub: EventHub, keys: TenantKeys, group: str | None = None
) -> list[GroupStats]:
    """Return how groups stand, by group, type, priority and partition.

    Costs a few commands for each type and group, in pipelines; the figures are not of
    one moment.

    Args:
        hub: What the rooms of the events share.
        keys: The tenant's.
        group: Only this one; None for all.

    Raises:
        InvalidIdentifierError: The group's name is not one.
        UnavailableError: Redis did not answer.
    """
    if group is not None:
        check_group(group)
    rows = await _rows(hub, keys, group)
    names = sorted({row.group for row in rows})
    details = [command for row in rows for command in _details(row)]
    tallies = [("HMGET", tally_key(keys, name), *COUNTED) for name in names]
    replies = await _send(hub, [("TIME",), *tallies, *details])
    seconds, micros = (int(part) for part in replies[0])
    now_ms = seconds * 1_000 + micros // 1_000
    counted = dict(zip(names, replies[1 : len(names) + 1], strict=True))
    rest = replies[len(names) + 1 :]
    found = [
        _stats(row, rest[at * 3 : at * 3 + 3], counted[row.group], now_ms)
        for at, row in enumerate(rows)
    ]
    return sorted(found, key=_order)


async def _rows(hub: EventHub, keys: TenantKeys, group: str | None) -> list[_Row]:
    scanner = Scanner(hub.port, hub.store.registry, hub.catalog)
    streams = await scanner.streams(keys, _ALL)
    replies = await _send(hub, [("XINFO", "GROUPS", key) for key in streams])
    rows: list[_Row] = []
    for (key, name), infos in zip(streams.items(), replies, strict=True):
        for raw in infos:
            info = raw if isinstance(raw, dict) else _table(raw)
            text = info[b"name"].decode(errors="replace")
            if _is_ours(text) and group in (None, text):
                rows.append(_Row(key, name, text, info))
    return rows


def _details(row: _Row) -> tuple[Command, Command, Command]:
    last = b"(" + row.info[b"last-delivered-id"]
    return (
        ("XLEN", row.key),
        ("XPENDING", row.key, row.group),
        ("XRANGE", row.key, last, "+", "COUNT", 1),
    )


def _stats(
    row: _Row,
    replies: Sequence[Any],
    counted: Sequence[bytes | None],
    now_ms: int,
) -> GroupStats:
    length, pending, waiting = replies
    oldest: list[int] = []
    if pending and pending[0]:
        oldest.append(place_of(pending[1])[0])
    if waiting:
        oldest.append(place_of(waiting[0][0])[0])
    numbers = [int(count or 0) for count in counted or [None] * len(COUNTED)]
    return GroupStats(
        group=row.group,
        event_type=row.name.event_type,
        priority=_PRIORITIES[row.name.lane],
        partition=row.name.partition,
        length=length or 0,
        pending=pending[0] if pending else 0,
        lag=_lag(row.info.get(b"lag"), is_waiting=bool(waiting)),
        oldest_age=max(0, now_ms - min(oldest)) / 1e3 if oldest else 0.0,
        consumers=row.info[b"consumers"],
        **dict(zip(COUNTED, numbers, strict=True)),
    )


def _lag(reported: int | None, *, is_waiting: bool) -> int | None:
    """Return how much waits; what Redis says may be nothing, or wrong, after a trim."""
    if not is_waiting:
        return 0
    return reported or None


def _order(stats: GroupStats) -> tuple[str, str, int, int]:
    partition = -1 if stats.partition is None else stats.partition
    return stats.group, stats.event_type, stats.priority, partition


def _is_ours(group: str) -> bool:
    try:
        check_group(group)
    except CrewRedisError:
        return False
    return True


async def _send(hub: EventHub, commands: Sequence[Command]) -> list[Any]:
    """Send in chunks; what is not there, or of another type, counts as empty.

    Raises:
        UnavailableError: Redis did not answer, or refuses one of them.
    """
    replies: list[Any] = []
    for start in range(0, len(commands), CHUNK):
        replies += await hub.port.send_many(commands[start : start + CHUNK])
    for at, reply in enumerate(replies):
        if isinstance(reply, DataError):
            replies[at] = []
        elif isinstance(reply, CrewRedisError):
            raise reply
    return replies


def _table(reply: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(reply[::2], reply[1::2], strict=True))
