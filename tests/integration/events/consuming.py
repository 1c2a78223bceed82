"""What the tests of consumers share: a crew with handlers, and what they were given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis

from mcp_crew_redis import CrewRedis
from mcp_crew_redis._core.backoff import Backoff
from mcp_crew_redis._wire.streams import LANES
from mcp_crew_redis.events.schemas import EventCatalog
from mcp_crew_redis.events.subscriptions import Subscriptions
from mcp_crew_redis.services import EventConsumer
from mcp_crew_redis.testing.given_settings import GivenSettings
from tests.rig.waiting import wait_until

__all__ = [
    "SOON",
    "Record",
    "consuming",
    "crew_on",
    "dead_key",
    "deliveries",
    "groups_of",
    "is_settled",
    "letters",
    "one_handler",
    "pending_of",
    "stream",
    "tally",
]

#: Attempts that follow each other quickly, and always after the same pause.
SOON = Backoff(base=0.02, factor=1.0, maximum=0.02, jitter=False)


class Record:
    """What handlers were given, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __len__(self) -> int:
        return len(self.events)

    async def handle(self, event: Any) -> None:
        """Note an event."""
        self.events.append(event)

    async def handle_many(self, events: list[Any]) -> None:
        """Note a list of them."""
        self.events += events

    @property
    def payloads(self) -> list[Any]:
        """Payloads, in the order of their handling."""
        return [event.payload for event in self.events]

    async def until(self, count: int, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Wait until so many were handled."""
        await wait_until(
            lambda: len(self.events) >= count, f"{count} are handled", timeout
        )


def crew_on(server: Any, *services: Any, **options: Any) -> CrewRedis:
    """Return a crew on a server; `catalog` and settings by name."""
    catalog = options.pop("catalog", None)
    # A client's server tells its path in one way, the tests' own in another.
    settings = GivenSettings(unix_socket=Path(server.unix_socket), **options)
    return CrewRedis(
        settings, services=services, event_catalog=catalog or EventCatalog()
    )


@asynccontextmanager
async def consuming(
    server: Any, subscriptions: Subscriptions, **options: Any
) -> AsyncIterator[tuple[CrewRedis, EventConsumer]]:
    """Run a crew whose consumer serves `subscriptions`."""
    consumer = EventConsumer(subscriptions)
    async with crew_on(server, consumer, **options) as crew:
        yield crew, consumer


def one_handler(
    handler: Callable[..., Any], pattern: str = "order.paid", **options: Any
) -> Subscriptions:
    """Return subscriptions with one handler, of group `g`, that tries again soon."""
    subscriptions = Subscriptions()
    # A method of a record is a coroutine function too.
    subscriptions.on(pattern, **{"group": "g", "backoff": SOON, **options})(handler)
    return subscriptions


# --- what stands on the server ----------------------------------------------------


def stream(
    tenant: str = "acme",
    event_type: str = "order.paid",
    lane: int = 2,
    partition: int | None = None,
) -> str:
    """Return the key of a stream."""
    end = "" if partition is None else f".{partition}"
    return f"mcp-crew:events:{{{tenant}}}:{event_type}:{LANES[lane]}{end}"


def dead_key(tenant: str = "acme", group: str = "g") -> str:
    """Return the key of a group's dead letters."""
    return f"mcp-crew:event:{{{tenant}}}:dead:{group}"


def groups_of(server: Any, key: str) -> list[dict[str, Any]]:
    """Return what the server says of the groups of a stream."""
    if not server.execute("EXISTS", key):
        return []
    return [_named(group) for group in server.execute("XINFO", "GROUPS", key)]


def deliveries(server: Any, key: str, group: str = "g") -> list[tuple[str, int]]:
    """Return who has each pending entry, and how often it has been delivered."""
    client = redis.Redis(unix_socket_path=str(server.unix_socket), protocol=2)
    client.response_callbacks.clear()  # redis-py reads the long form as the short one
    try:
        lines = client.execute_command("XPENDING", key, group, "-", "+", 10_000)
    finally:
        client.close()
    return [(consumer.decode(), count) for _, consumer, _, count in lines]


def pending_of(server: Any, key: str, group: str = "g") -> int:
    """Return how many entries are pending."""
    counts = [one["pending"] for one in groups_of(server, key) if one["name"] == group]
    return sum(counts)


def is_settled(server: Any, key: str, group: str = "g") -> bool:
    """Whether a group has read everything and nothing is pending."""
    (last,) = server.execute("XREVRANGE", key, "+", "-", "COUNT", 1) or [(None, {})]
    for one in groups_of(server, key):
        if one["name"] == group:
            is_read = last[0] is None or one["last-delivered-id"] == last[0].decode()
            return is_read and one["pending"] == 0
    return False


def letters(server: Any, tenant: str = "acme", group: str = "g") -> list[dict]:
    """Return a group's dead letters, oldest first."""
    entries = server.execute("XRANGE", dead_key(tenant, group), "-", "+")
    return [fields for _, fields in entries]


def tally(server: Any, tenant: str = "acme", group: str = "g") -> dict[str, int]:
    """Return what a group has counted."""
    key = f"mcp-crew:event:{{{tenant}}}:tally:{group}"
    counts = server.execute("HGETALL", key)
    return {name.decode(): int(count) for name, count in counts.items()}


def _named(group: Any) -> dict[str, Any]:
    return {
        _text(name): _text(value) if isinstance(value, (str, bytes)) else value
        for name, value in group.items()
    }


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
