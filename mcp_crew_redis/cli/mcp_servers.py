"""Real MCP servers over stdio: started, asked for their tools, called, ended.

Each is a child of this process and ends at the end of its standard input, so none
outlives us, however we end. The SDK closes it, waits, then kills the process group.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.types import TextContent

from mcp_crew_redis.cli.failure import DemoError, Steps, last_line, leaves
from mcp_crew_redis.clock import Clock

__all__ = ["McpServer", "McpServerSpec", "Patience", "running_servers"]

_MAX_PAGES = 100


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, in seconds per step."""

    start: float = 30.0
    list_tools: float = 10.0
    call: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServerSpec:
    """A server to run with this interpreter.

    Attributes:
        name: Short name; becomes the identifier and the kind of its tools.
        package: What to install when it is missing.
        module: What the package installs.
        arguments: Arguments of the interpreter; empty: `-m module`.
    """

    name: str
    package: str
    module: str
    arguments: tuple[str, ...] = ()

    @property
    def parameters(self) -> StdioServerParameters:
        """The command, for the SDK."""
        arguments = self.arguments or ("-m", self.module)
        return StdioServerParameters(command=sys.executable, args=list(arguments))

    @property
    def remedy(self) -> str:
        """What to do when it does not start."""
        return f"install it with: pip install {self.package}"


class McpServer:
    """A running server and what it offers.

    Attributes:
        spec: What was started.
        title: Name and version, as the server tells them.
        protocol: The MCP version agreed on.
        tools: Every tool as the server describes it: name, description, schemas.
        started_in: Seconds from the start of the process to the list of tools.
    """

    def __init__(
        self,
        spec: McpServerSpec,
        client: Client,
        tools: list[dict[str, Any]],
        *,
        started_in: float,
        patience: Patience,
    ) -> None:
        info = client.server_info
        self.spec = spec
        self.title = f"{info.name} {info.version}" if info else spec.package
        self.protocol = client.protocol_version
        self.tools = tools
        self.started_in = started_in
        self._client = client
        self._timeout = patience.call

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """Call `tool` and return the text of its answer.

        Raises:
            DemoError: No answer in time, an error, or an answer without text.
        """
        doing = f"{self.spec.package}: calling {tool}"
        with Steps() as steps:
            steps.begin(doing, self._timeout)
            try:
                result = await self._client.call_tool(tool, dict(arguments))
            except MCPError as error:
                raise DemoError(f"{doing} failed: {error}") from error
        parts = [part.text for part in result.content if isinstance(part, TextContent)]
        if result.is_error or not parts:
            raise DemoError(f"{doing} failed: {' '.join(parts) or 'no text'}")
        return "\n".join(parts)


@asynccontextmanager
async def running_servers(
    specs: Sequence[McpServerSpec], clock: Clock, patience: Patience
) -> AsyncGenerator[list[McpServer], None]:
    """Start all servers at once and end them with the body; yield them in order.

    Raises:
        DemoError: In an exception group: one is not installed, does not start or
            does not answer in time; names the package.
    """
    for spec in specs:
        if find_spec(spec.module) is None:
            raise DemoError(f"{spec.package} is not installed; {spec.remedy}")
    running: dict[str, McpServer] = {}
    done = anyio.Event()
    announce, arrivals = anyio.create_memory_object_stream[McpServer](len(specs))
    async with announce, arrivals, anyio.create_task_group() as tasks:
        for spec in specs:
            tasks.start_soon(_run, spec, clock, patience, announce, done)
        for _ in specs:
            server = await arrivals.receive()
            running[server.spec.name] = server
        try:
            yield [running[spec.name] for spec in specs]
        finally:
            done.set()


async def _run(
    spec: McpServerSpec,
    clock: Clock,
    patience: Patience,
    announce: MemoryObjectSendStream[McpServer],
    done: anyio.Event,
) -> None:
    """Hold one server from its start until `done`; one task opens and closes it."""
    began = clock.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        Steps() as steps,
    ):
        steps.begin(f"{spec.package}: starting ({spec.remedy})", patience.start)
        try:
            async with Client(stdio_client(spec.parameters, errlog=log)) as client:
                steps.begin(f"{spec.package}: listing tools", patience.list_tools)
                tools = await _list_tools(client)
                took = clock.monotonic() - began
                steps.rest(f"{spec.package}: running")
                await announce.send(
                    McpServer(spec, client, tools, started_in=took, patience=patience)
                )
                await done.wait()
        except Exception as error:
            said = last_line(log) or str(next(leaves(error)))
            raise DemoError(f"{steps.doing} failed: {said}") from error


async def _list_tools(client: Client) -> list[dict[str, Any]]:
    """Return every tool as plain data; a server may spread them over pages."""
    tools: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += [
            tool.model_dump(mode="json", by_alias=True, exclude_none=True)
            for tool in page.tools
        ]
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise DemoError(f"the list of tools has more than {_MAX_PAGES} pages")
