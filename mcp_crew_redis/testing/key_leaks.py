"""Every key expires, or is on the permanent list: the check of a test's keys.

    async def test_something(crew_redis, crew_redis_key_leaks): ...

or for a whole suite, in its conftest.py:

    @pytest.fixture(autouse=True)
    def _every_key_expires(crew_redis_key_leaks): ...
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest_asyncio

from mcp_crew_redis._wire.keys import DEFAULT_PREFIX, KeySpace
from mcp_crew_redis._wire.ttl import is_permanent
from mcp_crew_redis.errors import ConfigurationError

if TYPE_CHECKING:
    from mcp_crew_redis.crew import CrewRedis

__all__ = ["crew_redis_key_leaks", "find_key_leaks"]

PAGE = 1_000
NAMED = 10
"""Leaks that are told by name; one is enough to find the mistake."""
# What stands before the first brace: a prefix and a namespace.
_HEAD = re.compile(rb"(.*:)[a-z][a-z0-9_]{0,31}:", re.DOTALL)


class Client(Protocol):
    """What the check needs of a redis-py client."""

    async def execute_command(self, *args: Any) -> Any:
        """Run one command."""
        ...

    def pipeline(self, transaction: bool) -> Any:  # noqa: FBT001 - redis-py's own
        """Collect commands."""
        ...


async def find_key_leaks(
    client: Client, prefix: str | None = DEFAULT_PREFIX
) -> list[str]:
    """Return the keys that neither expire nor are on the permanent list, at most ten.

    It looks at every key under the prefix: for a test's server, not for production.

    Args:
        client: An asyncio client of redis-py or of this layer.
        prefix: `REDIS_CREW_PREFIX` of the keys. None: whatever looks like a tenant's
            key under any prefix; keys of other forms are then let be.

    Raises:
        ConfigurationError: The prefix is none.
    """
    space = None if prefix is None else KeySpace(prefix)
    if await client.execute_command("DBSIZE") == 0:
        return []
    pattern = "*" if space is None else f"{space.prefix}*"
    leaks: list[str] = []
    cursor: Any = 0
    while True:
        cursor, page = await client.execute_command(
            "SCAN", cursor, "MATCH", pattern, "COUNT", PAGE
        )
        keys = [key.encode() if isinstance(key, str) else key for key in page]
        suspects = [key for key in keys if not _may_stay(space, key)]
        leaks += [
            key.decode(errors="backslashreplace")
            for key, left_ms in zip(
                suspects, await _ttls(client, suspects), strict=True
            )
            if left_ms == -1  # there, and without a time to live
        ]
        if int(cursor) == 0 or len(leaks) >= NAMED:
            return leaks[:NAMED]


def _may_stay(space: KeySpace | None, key: bytes) -> bool:
    if space is not None:
        return is_permanent(space, key)
    found = _HEAD.fullmatch(key.partition(b"{")[0])
    if found is None:
        return True
    try:
        own = KeySpace(found[1].decode("ascii"))
    except (ConfigurationError, UnicodeDecodeError):
        return True
    return own.parse(key) is None or is_permanent(own, key)


async def _ttls(client: Client, keys: list[bytes]) -> list[int]:
    if not keys:
        return []
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command("PTTL", key)
    return list(await pipeline.execute())


@pytest_asyncio.fixture
async def crew_redis_key_leaks(crew_redis: CrewRedis) -> AsyncIterator[None]:
    """Fail the test if `crew_redis` wrote a key that never expires."""
    yield
    leaks = await find_key_leaks(crew_redis.redis, crew_redis.settings.prefix)
    assert not leaks, "keys that never expire:\n  " + "\n  ".join(leaks)
