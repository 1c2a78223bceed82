"""Who is in the demo: the tenants, the MCP servers, what they ask and keep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from mcp_crew_redis.cli.checkout import Checkout
from mcp_crew_redis.cli.mcp_servers import McpServer, McpServerSpec
from mcp_crew_redis.cli.report import printable
from mcp_crew_redis.cli.shelf import Record
from mcp_crew_redis.types import DataType

__all__ = [
    "TENANTS",
    "TIME",
    "TYPES",
    "Question",
    "Tenant",
    "answer_record",
    "gist",
    "git_spec",
    "question_for",
    "tools_record",
]

TYPES = (DataType.TOOLS, DataType.CACHE)
"""The data types of what the tenants keep."""

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


def git_spec(checkout: Checkout) -> McpServerSpec:
    """Return the git server for one checkout; it refuses every other folder."""
    return McpServerSpec(
        name="git",
        package="mcp-server-git",
        module="mcp_server_git",
        arguments=("-m", "mcp_server_git", "--repository", str(checkout.path)),
    )


def question_for(
    server: McpServer, tenant: Tenant, checkout: Checkout | None
) -> Question:
    """Return what `tenant` asks `server`."""
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


def gist(answer: str) -> str:
    """Return the part of an answer that tells a person it is alive."""
    try:
        return printable(str(json.loads(answer)["datetime"]))
    except (ValueError, KeyError, TypeError):
        lines = [line.strip() for line in answer.splitlines()]
        wanted = [line for line in lines if line.startswith("Message:")]
        return printable((wanted or lines)[0].removeprefix("Message:"))


def tools_record(tenant: Tenant, server: McpServer) -> Record:
    """Return what a tenant keeps of a server: who it is and its tools."""
    return Record(
        tenant_id=tenant.id,
        data_type=DataType.TOOLS,
        identifier=server.spec.name,
        kind=server.spec.name,
        server=server.spec.name,
        holds=f"{len(server.tools)} tools",
        value={"server": server.title, "tools": server.tools},
    )


def answer_record(
    tenant: Tenant, server: McpServer, question: Question, answer: str, at: datetime
) -> Record:
    """Return what a tenant keeps of an answer, the time it asked included."""
    return Record(
        tenant_id=tenant.id,
        data_type=DataType.CACHE,
        identifier=f"{server.spec.name}:{question.topic}",
        kind=None,
        server=server.spec.name,
        holds="1 answer",
        value={"arguments": question.arguments, "answer": answer, "asked_at": at},
    )
