"""The demo: two real MCP servers, two tenants, two processes, one embedded Redis.

The story, act by act: start the servers, ask them for their tools and one answer each,
keep both, this repository's documents and a conversation for two tenants; a second
process reads all of it and is rung when something changes; no tenant sees the other's.
All along the agents of both processes talk by events, with a slow subscriber and a
poisonous one. Then Redis is killed while they work; nothing that they wrote or said is
lost, and every event is accounted for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mcp_crew_redis._core.embedded import EmbeddedServer
from mcp_crew_redis.cli.cast import (
    TENANTS,
    TIME,
    Exchange,
    chat_items,
    document_items,
    gist,
    git_spec,
    mcp_items,
    question_for,
)
from mcp_crew_redis.cli.checkout import Checkout, git_checkout
from mcp_crew_redis.cli.checks import Stand, check_all
from mcp_crew_redis.cli.dialogue import Assignment
from mcp_crew_redis.cli.documents import documents_of
from mcp_crew_redis.cli.failure import Steps
from mcp_crew_redis.cli.items import Item
from mcp_crew_redis.cli.logbook import Logbook, logs_kept
from mcp_crew_redis.cli.mcp_servers import (
    McpServer,
    McpServerSpec,
    Patience,
    running_servers,
)
from mcp_crew_redis.cli.outage import live_through_an_outage
from mcp_crew_redis.cli.report import Report, printable
from mcp_crew_redis.cli.second_process import SecondProcess, second_process
from mcp_crew_redis.cli.shelf import Shelf, Written, rows_of
from mcp_crew_redis.cli.stopping import Ending, wait_for_enter
from mcp_crew_redis.cli.subscribers import Reviewer, first_subscribers
from mcp_crew_redis.cli.talk import Desk
from mcp_crew_redis.cli.talk_count import account_for_events
from mcp_crew_redis.cli.talk_history import Operator
from mcp_crew_redis.cli.talking import let_agents_talk
from mcp_crew_redis.clock import Clock, SystemClock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.services import EventConsumer
from mcp_crew_redis.settings import CrewSettings

__all__ = ["Stage", "tell"]

_STORE_TIMEOUT = 20.0
_OUTAGE_TIMEOUT = 30.0
_TALK_TIMEOUT = 40.0
_KEEPING = ("--appendonly", "yes")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What runs while there is a Redis: the server, the crew and what listens."""

    server: EmbeddedServer
    crew: CrewRedis
    desk: Desk
    logbook: Logbook


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
            items = await _ask_all(stage, servers, checkout)
            await _use_redis(stage, items, ending)


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
) -> list[Item]:
    """Ask each server for each tenant; return all that is to be kept."""
    stage.report.title("One call of each, for each tenant")
    is_ours = checkout is not None and not checkout.is_temporary
    documents = documents_of(checkout.path if checkout and is_ours else Path.cwd())
    items: list[Item] = []
    for tenant in TENANTS:
        exchanges: list[Exchange] = []
        for server in servers:
            question = question_for(server, tenant, checkout)
            answer = await server.call(question.tool, question.arguments)
            heard = f"{server.spec.name}.{question.tool} -> {gist(answer)}"
            stage.report.line(tenant.id, heard, style="bold")
            at = datetime.fromtimestamp(stage.clock.wall(), UTC)
            exchanges.append(
                Exchange(server=server, question=question, answer=answer, at=at)
            )
        items += mcp_items(tenant, exchanges)
        items += document_items(tenant, documents)
        items += chat_items(tenant, exchanges)
    return items


# --- Redis -------------------------------------------------------------------------
async def _use_redis(stage: Stage, items: Sequence[Item], ending: Ending) -> None:
    desk = Desk(process="first", clock=stage.clock)
    reviewer = Reviewer(desk)
    consumer = EventConsumer(first_subscribers(desk, reviewer))
    # With a file: what it had acknowledged is still there when it has been killed.
    async with EmbeddedServer(
        binary=stage.settings.embedded_server.binary, options=_KEEPING
    ) as server:
        settings = _settings(stage.settings, server)
        with logs_kept() as logbook:
            async with CrewRedis(settings, services=[consumer]) as crew:
                desk.crew = crew
                part = _Part(server=server, crew=crew, desk=desk, logbook=logbook)
                with Steps() as steps:
                    await _play(stage, part, reviewer, items, ending, steps)


async def _play(
    stage: Stage,
    part: _Part,
    reviewer: Reviewer,
    items: Sequence[Item],
    ending: Ending,
    steps: Steps,
) -> None:
    """Store, have it read, and play every act."""
    shelf = Shelf(part.crew, stage.clock)
    steps.begin("storing on the embedded server", _STORE_TIMEOUT)
    before = await shelf.socket_read_count()
    written = [await _store(shelf, part.desk, item) for item in items]
    steps.begin("reading in the second process", _STORE_TIMEOUT)
    async with second_process(_assignment(part.crew)) as second:
        readings = await second.readings()
        product = part.crew.redis.statistics().server
        stage.report.title(f"Kept in {product}, read in process {second.pid}")
        stage.report.table(rows_of(written, readings))
        stand = Stand(
            report=stage.report,
            crew=part.crew,
            shelf=shelf,
            second=second,
            clock=stage.clock,
            desk=part.desk,
            reviewer=reviewer,
            round_trips_before=before,
        )
        steps.begin("checking", _STORE_TIMEOUT)
        is_right = await check_all(stand, items, readings)
        ending.is_right = await _talk_through(stand, part, items, steps) and is_right
        if stage.keep:
            steps.rest("waiting")
            await _stay(stage.report, part.crew, second)
            steps.begin("ending the second process", _STORE_TIMEOUT)


async def _store(shelf: Shelf, desk: Desk, item: Item) -> Written:
    written = await shelf.write(item)
    await desk.say_of(item)
    return written


async def _talk_through(
    stand: Stand, part: _Part, items: Sequence[Item], steps: Steps
) -> bool:
    """Play the acts of events, the outage in their midst; return whether all held."""
    operator = Operator()
    steps.begin("talking by events", _TALK_TIMEOUT)
    verdicts = [await let_agents_talk(stand, items, operator)]
    part.logbook.take()
    steps.begin("living through the outage", _OUTAGE_TIMEOUT)
    verdicts.append(await live_through_an_outage(stand, part.server, part.logbook))
    steps.begin("counting events", _TALK_TIMEOUT)
    verdicts.append(await account_for_events(stand, part.server, operator))
    return all(verdicts)


def _settings(settings: CrewSettings, server: EmbeddedServer) -> CrewSettings:
    """Return the settings for the demo's own server, whatever address they name."""
    names = ("url", "host", "port", "username", "password", "tls", "embedded")
    theirs = (*names, "sentinels", "sentinel_master", "unix_socket", "db", "start")
    fields = CrewSettings.model_fields
    away = {name: fields[name].get_default() for name in theirs}
    here = {
        "unix_socket": Path(server.unix_socket),
        "db": settings.endpoint.db,
        "start": "strict",
    }
    return settings.model_copy(update=away | here)


def _assignment(crew: CrewRedis) -> Assignment:
    return Assignment(
        socket=crew.redis.statistics().address,
        db=crew.settings.endpoint.db,
        prefix=crew.settings.values.prefix,
        tenants=tuple(tenant.id for tenant in TENANTS),
    )


async def _stay(report: Report, crew: CrewRedis, second: SecondProcess) -> None:
    address = crew.redis.statistics().address
    report.title("Everything keeps running: Enter or Ctrl-C ends it")
    report.line("server", f"unix socket {address}")
    report.line("look", f"valkey-cli -s {address} (or redis-cli)")
    report.line("demo", f"processes {os.getpid()} and {second.pid}")
    await wait_for_enter()
