"""Who is in the demo: the tenants, the MCP servers, what they ask and keep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mcp_crew_redis.cli.checkout import Checkout
from mcp_crew_redis.cli.documents import Document
from mcp_crew_redis.cli.items import Item
from mcp_crew_redis.cli.mcp_servers import McpServer, McpServerSpec
from mcp_crew_redis.cli.report import printable
from mcp_crew_redis.types import DataType, Importance

__all__ = [
    "TENANTS",
    "TIME",
    "Customer",
    "Exchange",
    "Question",
    "chat_items",
    "document_items",
    "edited",
    "gist",
    "git_spec",
    "mcp_items",
    "question_for",
]

_CALLS = "mcp-calls"

TIME = McpServerSpec(name="time", package="mcp-server-time", module="mcp_server_time")


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant of the application; each asks for the time where it is.

    Attributes:
        id: The tenant.
        timezone: Where it is.
        desk: What its conversations are numbered by; no other tenant has them.
    """

    id: str
    timezone: str
    desk: str


TENANTS = (
    Customer("acme", "America/Sao_Paulo", "gru"),
    Customer("nova", "Asia/Tokyo", "hnd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a tenant asks an MCP server, and the name its answer is kept under."""

    tool: str
    topic: str
    arguments: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question to a server, and what it answered when."""

    server: McpServer
    question: Question
    answer: str
    at: datetime


def git_spec(checkout: Checkout) -> McpServerSpec:
    """Return the git server for one checkout; it refuses every other folder."""
    return McpServerSpec(
        name="git",
        package="mcp-server-git",
        module="mcp_server_git",
        arguments=("-m", "mcp_server_git", "--repository", str(checkout.path)),
    )


def question_for(
    server: McpServer, tenant: Customer, checkout: Checkout | None
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


# --- what is kept ------------------------------------------------------------------
def mcp_items(tenant: Customer, exchanges: Sequence[Exchange]) -> list[Item]:
    """Return the servers' tools, for as long as their MCP's live, and the answers."""
    tools = [_tools_item(tenant, one.server) for one in exchanges]
    return tools + [_answer_item(tenant, one) for one in exchanges]


def _tools_item(tenant: Customer, server: McpServer) -> Item:
    return Item(
        tenant_id=tenant.id,
        data_type=DataType.TOOLS,
        identifier=server.spec.name,
        kind=server.spec.name,
        value={"server": server.title, "tools": server.tools},
    )


def _answer_item(tenant: Customer, one: Exchange) -> Item:
    question = one.question
    value = {"arguments": question.arguments, "answer": one.answer, "asked_at": one.at}
    return Item(
        tenant_id=tenant.id,
        data_type=DataType.CACHE,
        identifier=f"{one.server.spec.name}:{question.topic}",
        kind=None,
        value=value,
    )


def document_items(tenant: Customer, documents: Iterable[Document]) -> list[Item]:
    """Return documents as knowledge that the tenant's agents share."""
    return [
        Item(
            tenant_id=tenant.id,
            data_type=DataType.KNOWLEDGE,
            identifier=document.name,
            kind=document.type,
            value={"text": document.text, "edition": 1},
        )
        for document in documents
    ]


def edited(item: Item) -> Item:
    """Return a document's next edition."""
    assert isinstance(item.value, dict)
    return replace(item, value=item.value | {"edition": item.value["edition"] + 1})


def chat_items(tenant: Customer, exchanges: Sequence[Exchange]) -> list[Item]:
    """Return a conversation about it, by importance, and the count of the calls."""
    asked = [f"{one.server.spec.name}.{one.question.tool}" for one in exchanges]
    said = {
        Importance.HIGH: [_line("tool", one.answer) for one in exchanges],
        Importance.MEDIUM: [_line("assistant", f"I ask {name}") for name in asked],
        Importance.LOW: [_line("user", f"Hello from {tenant.timezone}!")],
    }
    chats = [
        Item(
            tenant_id=tenant.id,
            data_type=DataType.CONVERSATION,
            identifier=f"{tenant.desk}:{number}",
            kind=importance,
            value={"messages": messages},
        )
        for number, (importance, messages) in enumerate(said.items(), 1)
    ]
    return [*chats, _calls_item(tenant, len(exchanges))]


def _line(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _calls_item(tenant: Customer, count: int) -> Item:
    return Item(
        tenant_id=tenant.id,
        data_type=DataType.COUNTER,
        identifier=_CALLS,
        kind=None,
        value=count,
    )
