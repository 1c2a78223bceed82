"""The demo: two real MCP servers, two tenants, one embedded Redis.

The story, act by act: start the servers, ask them for their tools and one answer each,
keep both for two tenants, read everything back, show that no tenant sees the other's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.statistics import NodeStatistics
from mcp_crew_redis.cli.cast import (
    TENANTS,
    TIME,
    TYPES,
    answer_record,
    gist,
    git_spec,
    question_for,
    tools_record,
)
from mcp_crew_redis.cli.checkout import Checkout, git_checkout
from mcp_crew_redis.cli.failure import Steps
from mcp_crew_redis.cli.mcp_servers import (
    McpServer,
    McpServerSpec,
    Patience,
    running_servers,
)
from mcp_crew_redis.cli.report import Report, printable
from mcp_crew_redis.cli.shelf import ReadBack, Record, Shelf
from mcp_crew_redis.cli.stopping import Ending, wait_for_enter
from mcp_crew_redis.clock import Clock, SystemClock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.settings import CrewSettings

__all__ = ["Stage", "tell"]

_STORE_TIMEOUT = 20.0
_BURST = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the story is told with.

    Attributes:
        report: Where to tell it.
        settings: For the crew; what they say of an address is not used.
        keep: Leave everything running at the end until Enter.
        clock: Time.
    """

    report: Report
    settings: CrewSettings
    keep: bool = False
    clock: Clock = field(default_factory=SystemClock)


async def tell(stage: Stage, ending: Ending) -> None:
    """Tell the whole story; `ending` learns how it went before any waiting.

    Cancelling it ends every process that it has started.

    Raises:
        DemoError: A step failed or took too long; perhaps in an exception group.
        CrewRedisError: The embedded server failed; perhaps in an exception group.
    """
    async with git_checkout(Path.cwd()) as checkout:
        specs = _specs(stage.report, checkout)
        stage.report.title(f"{len(specs)} MCP servers over stdio")
        async with running_servers(specs, stage.clock, Patience()) as servers:
            for server in servers:
                _introduce(stage.report, server)
            records = await _ask_all(stage, servers, checkout)
            await _use_redis(stage, records, ending)


# --- the MCP servers ---------------------------------------------------------------
def _specs(report: Report, checkout: Checkout | None) -> list[McpServerSpec]:
    if checkout is None:
        report.line("skipped", "mcp-server-git: there is no git on this machine")
        return [TIME]
    if checkout.is_temporary:
        report.line("note", "no git checkout here: the git server gets a new one")
    return [TIME, git_spec(checkout)]


def _introduce(report: Report, server: McpServer) -> None:
    names = ", ".join(printable(str(tool["name"])) for tool in server.tools)
    report.line(
        server.spec.name,
        f"{printable(server.title)}, MCP {server.protocol}, ready in "
        f"{server.started_in * 1e3:,.0f} ms, {len(server.tools)} tools: {names}",
    )


async def _ask_all(
    stage: Stage, servers: Sequence[McpServer], checkout: Checkout | None
) -> list[Record]:
    """Ask each server for each tenant; return the tools and answers to keep."""
    stage.report.title("One call of each, for each tenant")
    records: list[Record] = []
    for tenant in TENANTS:
        for server in servers:
            question = question_for(server, tenant, checkout)
            answer = await server.call(question.tool, question.arguments)
            heard = f"{server.spec.name}.{question.tool} -> {gist(answer)}"
            stage.report.line(tenant.id, heard, style="bold")
            at = datetime.fromtimestamp(stage.clock.wall(), UTC)
            records.append(tools_record(tenant, server))
            records.append(answer_record(tenant, server, question, answer, at))
    return records


# --- Redis -------------------------------------------------------------------------
async def _use_redis(stage: Stage, records: Sequence[Record], ending: Ending) -> None:
    async with CrewRedis.embedded(settings=stage.settings) as crew:
        shelf = Shelf(crew.redis, stage.clock, stage.settings.values)
        with Steps() as steps:
            steps.begin("storing on the embedded server", _STORE_TIMEOUT)
            ending.is_right = await _keep_and_read(stage.report, shelf, records)
        if stage.keep:
            await _stay(stage.report, crew.redis)


async def _keep_and_read(
    report: Report, shelf: Shelf, records: Sequence[Record]
) -> bool:
    await shelf.calibrate()
    before = await shelf.socket_read_count()
    rows = await _round_trip(shelf, records)
    report.title(f"Kept in {shelf.wire.server}, read back")
    report.table(rows)
    report.title("Checks")
    verdicts = [
        _check_equal(report, rows),
        await _check_isolation(report, shelf, rows),
        await _check_burst(report, shelf, rows),
    ]
    _describe_wire(report, shelf.wire, await shelf.socket_read_count() - before)
    return all(verdicts)


async def _round_trip(shelf: Shelf, records: Sequence[Record]) -> list[ReadBack]:
    written = [await shelf.write(record) for record in records]
    return [await shelf.read(one) for one in written]


def _check_equal(report: Report, rows: Sequence[ReadBack]) -> bool:
    equal = [row for row in rows if row.is_equal and row.ttl_ms > 0]
    holds = bool(rows) and len(equal) == len(rows)
    report.check(
        holds, f"{len(equal)} of {len(rows)} values came back equal and expire"
    )
    return holds


async def _check_isolation(
    report: Report, shelf: Shelf, rows: Sequence[ReadBack]
) -> bool:
    """Each tenant's own pattern finds its own keys, all of them and nothing else."""
    seen: list[set[bytes]] = []
    holds = True
    for tenant in TENANTS:
        mine = {row.written.key for row in rows if _tenant_of(row) == tenant.id}
        seen.append(await shelf.keys_of(tenant.id, TYPES))
        holds = holds and seen[-1] == mine
    shared = set.intersection(*seen)
    counts = ", ".join(
        f"{tenant.id} {len(keys)}" for tenant, keys in zip(TENANTS, seen, strict=True)
    )
    holds = holds and not shared
    report.check(
        holds, f"keys the server has by tenant: {counts}; {len(shared)} shared"
    )
    return holds


def _tenant_of(row: ReadBack) -> str:
    return row.written.record.tenant_id


async def _check_burst(report: Report, shelf: Shelf, rows: Sequence[ReadBack]) -> bool:
    before = await shelf.socket_read_count()
    burst = await shelf.read_many([row.written for row in rows], _BURST)
    reads = await shelf.socket_read_count() - before
    holds = burst.equal_count == _BURST
    report.check(
        holds,
        f"{burst.equal_count:,} of {_BURST:,} concurrent reads equal; made in "
        f"{burst.seconds * 1e3:,.1f} ms: {burst.read_count / burst.seconds:,.0f} "
        f"reads/s, {reads} round trips (seen here, no benchmark)",
    )
    return holds


def _describe_wire(report: Report, wire: NodeStatistics, reads: int) -> None:
    sent = wire.interactive.sent + wire.bulk.sent
    report.line(
        "wire",
        f"{wire.dials} connection{'s' if wire.dials != 1 else ''}, {sent:,} commands, "
        f"{reads:,} round trips; circuit {wire.circuit.state}",
    )


async def _stay(report: Report, redis: PipelinedRedis) -> None:
    report.title("Everything keeps running: Enter or Ctrl-C ends it")
    report.line("server", f"unix socket {redis.statistics().address}")
    report.line("look", f"valkey-cli -s {redis.statistics().address} (or redis-cli)")
    report.line("demo", f"process {os.getpid()}")
    await wait_for_enter()
