"""`crew.lifespan` in real hosts: Starlette under uvicorn, and an MCP server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.lifecycle import ServiceState
from mcp_crew_redis.settings import CrewSettings
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def crew(server) -> CrewRedis:
    return CrewRedis(CrewSettings(unix_socket=server.unix_socket))


async def _count(request: Request) -> JSONResponse:
    return JSONResponse(await request.state.crew.redis.incr("hits"))


async def _health(request: Request) -> JSONResponse:
    report = await request.state.crew.health()
    status = 200 if report.is_ready else 503
    return JSONResponse(report.as_dict(), status_code=status)


@asynccontextmanager
async def served(app: Starlette, path: Path) -> AsyncIterator[uvicorn.Server]:
    """Serve on a unix socket for the length of the block."""
    config = uvicorn.Config(app, uds=str(path), log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        # Not serve(): it takes the signals over, which belong to the test run here.
        tasks.create_task(server._serve())
        await wait_until(lambda: server.started, "uvicorn serves")
        try:
            yield server
        finally:
            server.should_exit = True


async def fetch(path: Path, target: str) -> str:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_an_asgi_application_has_the_crew_in_its_state(crew, tmp_path):
    """Up before the first request, down after the last."""
    routes = [Route("/count", _count), Route("/health", _health)]
    app = Starlette(routes=routes, lifespan=crew.lifespan)
    async with served(app, tmp_path / "http"):
        assert (await fetch(tmp_path / "http", "/count")).endswith("\r\n1")
        assert (await fetch(tmp_path / "http", "/count")).endswith("\r\n2")
        assert "200 OK" in await fetch(tmp_path / "http", "/health")
        assert crew.state is ServiceState.RUNNING

    assert crew.state is ServiceState.STOPPED


async def test_an_mcp_server_has_the_crew_in_its_context(crew):
    """A tool uses Redis through the lifespan's context."""
    from mcp import Client
    from mcp.server.mcpserver import Context, MCPServer

    mcp = MCPServer("counter", lifespan=crew.lifespan)

    @mcp.tool()
    async def count(ctx: Context) -> int:
        return await ctx.request_context.lifespan_context["crew"].redis.incr("calls")

    async with Client(mcp) as client:
        result = await client.call_tool("count", {})

    assert not result.is_error
    assert result.structured_content == {"result": 1}
    assert crew.state is ServiceState.STOPPED
