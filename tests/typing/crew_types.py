"""What type checkers make of the crew: checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

from anyio.abc import TaskStatus

from mcp_crew_redis import (
    ComponentHealth,
    CrewRedis,
    CrewSettings,
    EmbeddedServer,
    HealthReport,
    PipelinedRedis,
    Service,
)


class Heartbeat:
    """A service, by its shape alone."""

    name = "heartbeat"
    needs: Sequence[str] = ()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Be ready, and end."""
        task_status.started()

    def drain(self) -> None:
        """Nothing is held."""


class HeartbeatSpec:
    """A spec, by its shape alone."""

    def build(self, crew: CrewRedis, /) -> Service:
        """Make one for each run."""
        assert_type(crew.redis, PipelinedRedis)
        return Heartbeat()


async def use() -> None:
    """Entering gives the crew itself."""
    async with CrewRedis(CrewSettings(), services=[HeartbeatSpec()]) as crew:
        assert_type(crew, CrewRedis)
        assert_type(crew.redis, PipelinedRedis)
        assert_type(crew.settings, CrewSettings)
        report = await crew.health()
        assert_type(report, HealthReport)
        assert_type(report.is_ready, bool)
        assert_type(report.components, tuple[ComponentHealth, ...])
        assert_type(report.as_dict(), dict[str, object])
        await crew.run_until_stopped()
    async with CrewRedis.embedded(Path("data")) as embedded:
        assert_type(embedded, CrewRedis)


async def lifespan() -> None:
    """What ASGI servers and MCP servers take."""
    async with CrewRedis().lifespan() as state:
        assert_type(state, dict[str, CrewRedis])


async def server() -> None:
    """The embedded server by itself."""
    async with EmbeddedServer() as running:
        assert_type(running.unix_socket, str)
        assert_type(running.pid, int | None)
