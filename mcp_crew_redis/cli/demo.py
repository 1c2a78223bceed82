"""The demo: two real MCP servers, two tenants, one embedded Redis.

The story, act by act: start the servers, ask them for their tools and one answer each,
keep both for two tenants, read everything back, show that no tenant sees the other's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.statistics import NodeStatistics
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
from mcp_crew_redis.cli.stopping import Stop, wait_for_enter
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.settings import CrewSettings
from mcp_crew_redis.types import DataType

__all__ = ["TENANTS", "TIME", "Ending", "Question", "Tenant", "git_spec", "tell"]

_STORE_TIMEOUT = 20.0
_BURST = 1_000
_TYPES = (DataType.TOOLS, DataType.CACHE)

TIME = McpServerSpec(name="time", package="mcp-server-time", module="mcp_server_time")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the application; each asks for the time where it is."""

    id: str
    timezone: str


TENANTS = (Tenant("acme", "America/Sao_Paulo"), Tenant("nova", "Asia/Tokyo"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a tenant asks an MCP server, and the name its answer is kept under."""

    tool: str
    topic: str
    arguments: dict[str, object]


@dataclass(slots=True)
class Ending:
    """How the story has ended: None until everything has been checked."""

    is_right: bool | None = None

    def exit_code(self, stop: Stop) -> int:
        """Return 0 only when all was right; a signal counts only before that."""
        if self.is_right is None:
            return stop.exit_code or 1
        return 0 if self.is_right else 1


def git_spec(checkout: Checkout) -> McpServerSpec:
    """Return the git server for one checkout; it refuses every other folder."""
    return McpServerSpec(
        name="git",
        package="mcp-server-git",
        module="mcp_server_git",
        arguments=("-m", "mcp_server_git", "--repository", str(checkout.path)),
    )


async def tell(
    report: Report,
    clock: Clock,
    settings: CrewSettings,
    ending: Ending,
    *,
    keep: bool = False,
) -> None:
    """Tell the whole story.

    Cancelling it ends every process that it has started.

    Args:
        report: Where to tell it.
        clock: Time.
        settings: For the crew; what they say of an address is not used.
        ending: Learns whether everything was right, before any waiting.
        keep: Leave everything running at the end until Enter.

    Raises:
        DemoError: A step failed or took too long; perhaps in an exception group.
        CrewRedisError: The embedded server failed; perhaps in an exception group.
    """
    async with git_checkout(Path.cwd()) as checkout:
        specs = _specs(report, checkout)
        report.title(f"{len(specs)} MCP servers over stdio")
        async with running_servers(specs, clock, Patience()) as servers:
            for server in servers:
                _introduce(report, server)
            records = await _ask_all(report, servers, checkout, clock)
            async with CrewRedis.embedded(settings=settings) as crew:
                shelf = Shelf(crew.redis, clock, settings.values)
                with Steps() as steps:
                    steps.begin("storing on the embedded server", _STORE_TIMEOUT)
                    ending.is_right = await _keep_and_read(report, shelf, records)
                if keep:
                    await _stay(report, crew.redis)


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
    report: Report,
    servers: Sequence[McpServer],
    checkout: Checkout | None,
    clock: Clock,
) -> list[Record]:
    """Ask each server for each tenant; return the tools and answers to keep."""
    report.title("One call of each, for each tenant")
    records: list[Record] = []
    for tenant in TENANTS:
        for server in servers:
            question = _question(server, tenant, checkout)
            answer = await server.call(question.tool, question.arguments)
            heard = f"{server.spec.name}.{question.tool} -> {_gist(answer)}"
            report.line(tenant.id, heard, style="bold")
            at = datetime.fromtimestamp(clock.wall(), UTC)
            records.append(_tools_record(tenant, server))
            records.append(_answer_record(tenant, server, question, answer, at))
    return records


def _question(server: McpServer, tenant: Tenant, checkout: Checkout | None) -> Question:
    if server.spec.name == TIME.name or checkout is None:
        return Question(
            tool="get_current_time",
            topic="now",
            arguments={"timezone": tenant.timezone},
        )
    return Question(
        tool="git_log",
        topic="head",
        arguments={"repo_path": str(checkout.path), "max_count": 1},
    )


def _gist(answer: str) -> str:
    """Return the part of an answer that tells a person it is alive."""
    try:
        return printable(str(json.loads(answer)["datetime"]))
    except (ValueError, KeyError, TypeError):
        lines = [line.strip() for line in answer.splitlines()]
        wanted = [line for line in lines if line.startswith("Message:")]
        return printable((wanted or lines)[0].removeprefix("Message:"))


def _tools_record(tenant: Tenant, server: McpServer) -> Record:
    return Record(
        tenant_id=tenant.id,
        data_type=DataType.TOOLS,
        identifier=server.spec.name,
        kind=server.spec.name,
        server=server.spec.name,
        holds=f"{len(server.tools)} tools",
        value={"server": server.title, "tools": server.tools},
    )


def _answer_record(
    tenant: Tenant, server: McpServer, question: Question, answer: str, at: datetime
) -> Record:
    return Record(
        tenant_id=tenant.id,
        data_type=DataType.CACHE,
        identifier=f"{server.spec.name}:{question.topic}",
        kind=None,
        server=server.spec.name,
        holds="1 answer",
        value={"arguments": question.arguments, "answer": answer, "asked_at": at},
    )


# --- Redis -------------------------------------------------------------------------
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
        seen.append(await shelf.keys_of(tenant.id, _TYPES))
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
