"""Commands that must not travel on a shared connection, and where they may."""

from __future__ import annotations

import pytest

from mcp_crew_redis.errors import LifecycleError
from tests.integration.core.bench import outcome, wire


@pytest.fixture
async def client(server):
    async with wire(server.client_kwargs) as client:
        yield client


OWN = [("SELECT", 1), ("WATCH", "k"), ("UNWATCH",), ("MULTI",), ("EXEC",),
       ("DISCARD",), ("MONITOR",), ("SUBSCRIBE", "c"), ("PSUBSCRIBE", "c"),
       ("SSUBSCRIBE", "c"), ("CLIENT", "TRACKING", "ON"), ("CLIENT TRACKING", "ON"),
       ("CLIENT", "CACHING", "YES"), ("CLIENT", "NO-EVICT", "ON"),
       ("CLIENT", "NO-TOUCH", "ON"), ("READONLY",), ("ASKING",), ("SYNC",),
       ("PSYNC", "?", -1), ("REPLCONF", "ACK", 0), ("SCRIPT", "DEBUG", "YES"),
       ("watch", "k"), (b"MULTI",), ("client", b"tracking", "on")]  # fmt: skip
REFUSED = [("CLIENT", "REPLY", "OFF"), ("CLIENT REPLY", "SKIP"), ("HELLO", 2),
           ("AUTH", "x"), ("RESET",), ("QUIT",), ("hello",), (b"AUTH", b"x"),
           ("client", "reply", "off"), (" HELLO ", 2), ("CLIENT REPLY OFF",),
           ("CLIENT", memoryview(b"REPLY"), "OFF")]  # fmt: skip


@pytest.mark.parametrize("command", OWN, ids=repr)
async def test_command_that_changes_its_connection_is_told_where_to_go(
    client, server, command
):
    """LifecycleError that names client(); the server has heard nothing of it."""
    await client.ping()
    error = await outcome(client.execute_command(*command))

    assert isinstance(error, LifecycleError)
    assert "client()" in str(error)
    assert calls_of(server, command) == 0


@pytest.mark.parametrize("command", REFUSED, ids=repr)
async def test_command_that_would_shift_replies_is_refused(client, server, command):
    """Nobody may touch the replies of others."""
    await client.ping()
    own = calls_of(server, command)  # asking says HELLO too
    before = calls_of(server, command)
    error = await outcome(client.execute_command(*command))

    assert isinstance(error, LifecycleError)
    assert "refused" in str(error)
    assert calls_of(server, command) - before == before - own
    assert await client.echo("mine") == b"mine"


def calls_of(server, command) -> int:
    """Return how often the server has run `command`, handshakes not counted."""
    words = [
        part if isinstance(part, str) else bytes(part).decode()
        for part in command
        if isinstance(part, (str, bytes, memoryview))
    ]
    words = " ".join(words).lower().split()
    stats = server.info("commandstats")
    name = f"cmdstat_{words[0]}"
    if len(words) > 1 and f"{name}|{words[1]}" in stats:
        name = f"{name}|{words[1]}"
    return stats.get(name, {}).get("calls", 0)
