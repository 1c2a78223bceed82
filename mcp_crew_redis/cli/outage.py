"""The demo's second act: Redis is killed while the agents of two processes work.

    work ... SIGKILL ... board (first), board (second), some of it (first) ... return

Both processes write the board's names, one after the other, while nobody can ask
Redis. Afterwards every key is read over a plain connection, past the whole layer, and
compared with what the agents wrote down of their own calls.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from mcp_crew_redis._core.embedded import EmbeddedServer
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.header import unseal
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis.cli.agents import BOARD, Agents, Work
from mcp_crew_redis.cli.cast import TENANTS
from mcp_crew_redis.cli.checks import Stand
from mcp_crew_redis.cli.dialogue import Order
from mcp_crew_redis.cli.history import Name, Verdict, Write, judge
from mcp_crew_redis.cli.logbook import Logbook
from mcp_crew_redis.cli.report import Report
from mcp_crew_redis.testing.side_connection import Reply, SideConnection
from mcp_crew_redis.types import DataType

__all__ = ["live_through_an_outage"]

_PAUSE = 0.3
"""Seconds between two turns of the story: what one process writes is plainly newer."""
_TAKEN_BACK = BOARD[:4]
"""What the first process writes again after the second one has."""


@dataclass(slots=True)
class _Outage:
    """When Redis was away, in seconds of the clock that all processes share."""

    killed_at: float = 0.0
    back_at: float = 0.0


async def live_through_an_outage(
    stand: Stand, server: EmbeddedServer, logbook: Logbook
) -> bool:
    """Play the act and tell it; return whether nothing was lost or clobbered.

    Raises:
        DemoError: The second process has ended.
        CrewRedisError: The server does not come back, or a journal does not drain.
    """
    stand.report.title("Redis is killed while the agents of both processes work")
    agents = Agents(
        crew=stand.crew,
        tenants=tuple(tenant.id for tenant in TENANTS),
        process="first",
        clock=stand.clock,
        desk=stand.desk,
    )
    works, outage = await _work_through(stand, server, agents)
    stand.report.line("log", f"of this process: {logbook.take()}")
    writes = [write for work in works for write in work.writes]
    verdict = judge(writes, await _look(stand, server, writes))
    _tell_figures(stand, works, verdict)
    return _check(stand.report, works, outage, verdict)


# --- the story -----------------------------------------------------------------------
async def _work_through(
    stand: Stand, server: EmbeddedServer, agents: Agents
) -> tuple[Sequence[Work], _Outage]:
    """Return what the agents of either process did, and when Redis was away."""
    outage = _Outage()
    await stand.second.obey(Order.WORK)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agents.work)
        await _kill_and_revive(stand, server, agents, outage)
        agents.stop()
    await stand.second.tell(Order.STOP)
    return (await agents.finish(), await stand.second.done()), outage


async def _kill_and_revive(
    stand: Stand, server: EmbeddedServer, agents: Agents, outage: _Outage
) -> None:
    clock = stand.clock
    await clock.sleep(_PAUSE)
    pid, outage.killed_at = server.pid, clock.monotonic()
    assert pid is not None, "it is the demo that kills it"
    os.kill(pid, signal.SIGKILL)
    stand.report.line("kill", f"SIGKILL to the server, process {pid}")
    await _write_the_board(stand, agents)
    await _tell_health(stand, agents, outage.killed_at)
    await server.revive()
    outage.back_at = clock.monotonic()
    away = outage.back_at - outage.killed_at
    stand.report.line(
        "return",
        f"after {away:.1f} s at the same socket: process {server.pid}, with what its "
        "append-only file has",
    )
    await clock.sleep(2 * _PAUSE)


async def _write_the_board(stand: Stand, agents: Agents) -> None:
    """Write the same names in both processes, with time between them."""
    await stand.clock.sleep(_PAUSE)
    await _raise_alerts(stand, agents)
    await agents.write_board(BOARD, edition=1)
    await stand.clock.sleep(_PAUSE)
    await stand.second.obey(Order.BOARD)
    await stand.clock.sleep(_PAUSE)
    await agents.write_board(_TAKEN_BACK, edition=2)
    stand.report.line(
        "board",
        f"both processes wrote the same {len(BOARD)} names for each tenant, one after "
        f"the other, and this one {len(_TAKEN_BACK)} of them again",
    )


async def _raise_alerts(stand: Stand, agents: Agents) -> None:
    alerts = await agents.alert("Redis is away")
    outcomes = ", ".join(f"{one.tenant_id}'s {one.outcome}" for one in alerts)
    stand.report.line("alert", f"critical, to the other process: {outcomes}")


async def _tell_health(stand: Stand, agents: Agents, killed_at: float) -> None:
    health = await stand.crew.health()
    is_ready = "ready" if health.is_ready else "NOT ready"
    stand.report.line("health", f"{is_ready}; {'; '.join(health.reasons)}")
    since = [write for write in agents.writes if write.ended > killed_at]
    count = sum(write.is_accepted for write in since)
    slowest = max((write.ended - write.began for write in since), default=0.0)
    stand.report.line(
        "work",
        f"goes on: {count:,} writes of this process accepted since, the slowest "
        f"after {slowest * 1e3:.1f} ms",
    )


# --- what stands ---------------------------------------------------------------------
async def _look(
    stand: Stand, server: EmbeddedServer, writes: Sequence[Write]
) -> dict[Name, object]:
    """Read every key that was written, past the layer, its client and its scripts."""
    values = stand.crew.settings.values
    keys = KeySpace(values.prefix)
    plain = SideConnection(Path(server.unix_socket), "default", "")
    try:
        await plain.execute("SELECT", stand.crew.settings.endpoint.db)
        found: dict[Name, object] = {}
        for name in {write.name for write in writes}:
            tenant_id, data_type, identifier = name
            key = keys.tenant(tenant_id).key(DataType(data_type), identifier)
            if data_type == DataType.COUNTER:
                found[name] = _number(await plain.execute("HGET", key, "v"))
            else:
                found[name] = _value(await plain.execute("GET", key))
        return found
    finally:
        plain.close()


def _number(reply: Reply) -> int | None:
    return int(reply) if isinstance(reply, bytes) else None


def _value(reply: Reply) -> object:
    """Return a stored value; None for none, and for what was deleted."""
    if not isinstance(reply, bytes):
        return None
    sealed = unseal(reply)
    return None if sealed.is_tombstone else MsgpackCodec().decode(sealed.payload)


# --- what is told --------------------------------------------------------------------
def _tell_figures(stand: Stand, works: Sequence[Work], verdict: Verdict) -> None:
    head = ("", f"process {os.getpid()}", f"process {stand.second.pid}", "both")
    rows = [
        _row("writes accepted", [_accepted(work) for work in works]),
        _row("of them deferred", [work.journal["accepted"] for work in works]),
        _row("journal entries, one a key", [_entries(work) for work in works]),
        _row("synchronised", [_synchronised(work) for work in works]),
        _row(
            "replaced by its own newer", [work.journal["superseded"] for work in works]
        ),
        _row("kept the other's newer", [work.journal["conflicts"] for work in works]),
        _row("refused, and said so", [_refused(work) for work in works]),
        ("lost", "", "", f"{verdict.lost:,}"),
        ("clobbered", "", "", f"{verdict.clobbered:,}"),
    ]
    stand.report.figures(head, rows)


def _row(name: str, counts: Sequence[int]) -> tuple[str, ...]:
    return (name, *(f"{count:,}" for count in counts), f"{sum(counts):,}")


def _accepted(work: Work) -> int:
    return sum(write.is_accepted for write in work.writes)


def _refused(work: Work) -> int:
    return len(work.writes) - _accepted(work)


def _synchronised(work: Work) -> int:
    """Entries that stand in Redis; a duplicate stood there before, unheard."""
    return int(work.journal["applied"] + work.journal["duplicates"])


def _entries(work: Work) -> int:
    """All that have left the journal: whatever became of them was counted."""
    ends = ("superseded", "conflicts", "merged", "expired", "purged")
    return _synchronised(work) + sum(int(work.journal[end]) for end in ends)


def _check(
    report: Report, works: Sequence[Work], outage: _Outage, verdict: Verdict
) -> bool:
    waited = max(work.drained_at for work in works) - outage.back_at
    left = sum(work.journal["depth"] for work in works)
    kept = sum(work.journal["conflicts"] for work in works)
    claims = (
        (
            not left and all(work.journal["accepted"] for work in works),
            f"both journals were used, and empty {waited:.1f} s after the return",
        ),
        (
            verdict.is_right,
            _told(verdict),
        ),
        (kept > 0, f"{kept} times the newer write of the other process was kept"),
        _claim_of_reads(works),
    )
    for holds, text in claims:
        report.check(holds, text)
    return all(holds for holds, _ in claims)


def _told(verdict: Verdict) -> str:
    return (
        f"{verdict.keys} keys read back over a plain connection: {verdict.lost} lost, "
        f"{verdict.clobbered} clobbered, {verdict.repeated} increments counted twice"
    )


def _claim_of_reads(works: Sequence[Work]) -> tuple[bool, str]:
    right = sum(work.reads.right for work in works)
    wrong = sum(work.reads.wrong for work in works)
    refused = sum(work.reads.refused for work in works)
    text = (
        f"{right:,} reads found what their own process had written last, {wrong} did "
        f"not; {refused} were refused: only Redis could know"
    )
    return right > 0 and wrong == 0, text
