"""The demo's last count: what became of every event that any agent has published.

The notes of both processes are compared with each other and with what stands in the
streams, which are read over a plain connection, past the whole layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mcp_crew_redis._core.embedded import EmbeddedServer
from mcp_crew_redis._wire.envelope import ENVELOPE, unpack_envelope
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.streams import LANES, stream_key
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.cli.cast import TENANTS
from mcp_crew_redis.cli.checks import Stand
from mcp_crew_redis.cli.dialogue import Order
from mcp_crew_redis.cli.subscribers import ARCHIVE, GROUPS, REVIEW
from mcp_crew_redis.cli.talk import Talk
from mcp_crew_redis.cli.talk_history import (
    GroupCount,
    Operator,
    Stream,
    StreamCount,
    count_group,
    count_streams,
)
from mcp_crew_redis.cli.talking import behind
from mcp_crew_redis.events.kinds import EventType
from mcp_crew_redis.testing.side_connection import Reply, SideConnection

__all__ = ["account_for_events"]

Counts = Mapping[str, GroupCount]
_TIMEOUT = 15.0
_PAUSE = 0.1


async def account_for_events(
    stand: Stand, server: EmbeddedServer, operator: Operator
) -> bool:
    """Wait for the last event, count all and tell it; return whether it balances.

    Raises:
        DemoError: The second process has ended.
        CrewRedisError: Redis does not answer.
    """
    stand.report.title("Every event is accounted for")
    began = stand.clock.monotonic()
    talk, waiting = await _settled(stand, operator)
    took = stand.clock.monotonic() - began
    stand.report.line(
        "drain",
        f"after {took:.1f} s more the slow archive has caught up"
        if not waiting[ARCHIVE]
        else f"after {took:.1f} s more {waiting[ARCHIVE]} wait for the slow archive",
    )
    counts = _counts(talk, operator)
    _tell_figures(stand, talk, counts, operator)
    stands = await _look(stand, server, talk)
    streams = count_streams(talk.said, stands, operator.replayed)
    books = await _books(stand)
    claims = (
        *_claims(talk, counts, streams),
        (
            books == (len(operator.dead), 0) and not any(waiting.values()),
            (
                f"the groups' own books agree: {books[0]} dead letters, {books[1]} "
                f"lost, {sum(waiting.values())} waiting or unacknowledged"
            ),
        ),
    )
    for holds, text in claims:
        stand.report.check(holds, text)
    return all(holds for holds, _ in claims)


async def _settled(stand: Stand, operator: Operator) -> tuple[Talk, dict[str, int]]:
    """Wait until the notes balance and nothing waits, for 15 s at most.

    Returns:
        The notes of both processes, and what still waits for each group.
    """
    deadline = stand.clock.monotonic() + _TIMEOUT
    while True:
        talk = stand.desk.talk + (await stand.second.obey(Order.TELL)).talk
        counts = _counts(talk, operator)
        waiting = {group: await behind(stand, group) for group in GROUPS}
        is_done = all(count.is_balanced for count in counts.values())
        # Out of time, the checks say what is wrong.
        is_over = stand.clock.monotonic() > deadline
        if is_over or (is_done and not any(waiting.values())):
            return talk, waiting
        await stand.clock.sleep(_PAUSE)


def _counts(talk: Talk, operator: Operator) -> Counts:
    return {
        group: count_group(
            talk, group, wanted, operator.purged if group == REVIEW else frozenset()
        )
        for group, wanted in GROUPS.items()
    }


async def _books(stand: Stand) -> tuple[int, int]:
    """Return what the groups have counted in Redis: dead letters and losses."""
    dead = lost = 0
    for tenant in TENANTS:
        rows = await stand.crew.tenant(tenant.id).events.stats()
        for one in {row.group: row for row in rows}.values():
            dead += one.dead
            lost += one.lost
    return dead, lost


# --- what stands ---------------------------------------------------------------------
async def _look(
    stand: Stand, server: EmbeddedServer, talk: Talk
) -> dict[Stream, list[str]]:
    """Return the names of the events in every stream that there may be."""
    keys = KeySpace(stand.crew.settings.values.prefix)
    types = {*map(str, EventType), *(one.type for one in talk.said)}
    plain = SideConnection(Path(server.unix_socket), "default", "")
    try:
        await plain.execute("SELECT", stand.crew.settings.endpoint.db)
        found: dict[Stream, list[str]] = {}
        for tenant in TENANTS:
            for event_type in types:
                for lane in range(len(LANES)):
                    key = stream_key(keys.tenant(tenant.id), event_type, lane)
                    entries = await plain.execute("XRANGE", key, "-", "+")
                    if entries:
                        found[tenant.id, event_type, lane] = _names(entries)
        return found
    finally:
        plain.close()


def _names(entries: Reply) -> list[str]:
    """Return the names of entries, each a pair of its place and its fields."""
    names: list[str] = []
    for entry in entries if isinstance(entries, list) else []:
        assert isinstance(entry, list)
        fields = entry[1]
        assert isinstance(fields, list)
        head = fields[fields.index(ENVELOPE) + 1]
        assert isinstance(head, bytes)
        names.append(id_text(unpack_envelope(head).id))
    return names


# --- what is told --------------------------------------------------------------------
def _tell_figures(stand: Stand, talk: Talk, counts: Counts, operator: Operator) -> None:
    said, deferred = _accepted(talk)
    stand.report.line(
        "said",
        f"{said:,} events published by both processes, {deferred:,} of them into "
        "their journals while Redis was dead",
    )
    dead = dict.fromkeys(counts, 0) | {REVIEW: len(operator.dead)}
    replayed = dict.fromkeys(counts, 0) | {REVIEW: len(operator.replayed)}
    rows = [
        _row("published for the group", [one.published for one in counts.values()]),
        _row("handled", [one.handled for one in counts.values()]),
        _row("redelivered", [one.redelivered for one in counts.values()]),
        _row("dead letters", list(dead.values())),
        _row("of them replayed", list(replayed.values())),
        _row("of them purged", [one.purged for one in counts.values()]),
        _row("handled twice", [one.repeated for one in counts.values()]),
        _row("lost", [one.lost for one in counts.values()]),
    ]
    stand.report.figures(("events", *counts), rows)


def _row(name: str, counts: list[int]) -> tuple[str, ...]:
    return name, *(f"{count:,}" for count in counts)


def _accepted(talk: Talk) -> tuple[int, int]:
    outcomes = [one.outcome for one in talk.said]
    deferred = outcomes.count("deferred")
    return outcomes.count("stored") + deferred, deferred


def _claims(
    talk: Talk, counts: Counts, streams: StreamCount
) -> tuple[tuple[bool, str], ...]:
    _, deferred = _accepted(talk)
    lost = sum(one.lost for one in counts.values())
    strangers = sum(one.strangers for one in counts.values())
    return (
        (
            all(one.is_balanced for one in counts.values()),
            (
                f"published = handled + purged in each of {len(counts)} groups: {lost} "
                f"lost, {strangers} heard of another tenant"
            ),
        ),
        (
            streams.is_right and deferred > 0,
            (
                f"{streams.entries:,} entries read over a plain connection: "
                f"{streams.missing} missing, {streams.repeated} twice, "
                f"{streams.misplaced} out of order, {streams.foreign} of nobody"
            ),
        ),
    )
