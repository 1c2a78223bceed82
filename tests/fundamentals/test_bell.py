"""The bell: a process is told what another has changed, without asking.

The tutorial's tier: one concept per test, a real server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mcp_crew_redis import Bell, BellListener, CrewRedis, DataType


class Notes(BellListener):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()

    def on_healthy(self) -> None:
        self.told.put_nowait("healthy")

    def on_keys(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.told.put_nowait(key.decode().rpartition("}:")[2])

    def on_lost(self) -> None:
        self.told.put_nowait("lost")

    async def next(self) -> str:
        async with asyncio.timeout(5):
            return await self.told.get()


@pytest.fixture
async def bell(crew_redis: CrewRedis) -> Bell:
    return crew_redis.bell


@pytest.fixture
def prefix(crew_redis: CrewRedis) -> bytes:
    """Return what acme's knowledge begins with."""
    return f"{crew_redis.settings.prefix}knowledge:{{acme}}:".encode()


async def test_a_listener_is_told_of_sets_and_deletes(
    crew_redis: CrewRedis, bell: Bell, prefix: bytes
) -> None:
    """First that the bell works; then every change, in order."""
    notes, acme = Notes(), crew_redis.tenant("acme")
    with bell.listen(prefix, notes):
        assert await notes.next() == "healthy"

        await acme.set(DataType.KNOWLEDGE, "topic", "new")
        assert await notes.next() == "topic"

        await acme.delete(DataType.KNOWLEDGE, "topic")
        assert await notes.next() == "topic"


async def test_a_listener_hears_only_what_it_listens_to(
    crew_redis: CrewRedis, bell: Bell, prefix: bytes
) -> None:
    """Other tenants and other types ring elsewhere."""
    notes, acme = Notes(), crew_redis.tenant("acme")
    with bell.listen(prefix, notes):
        assert await notes.next() == "healthy"

        await crew_redis.tenant("nova").set(DataType.KNOWLEDGE, "of nova", 1)
        await acme.set(DataType.STATE, "state", 1)
        await acme.set(DataType.KNOWLEDGE, "topic", 1)

        assert await notes.next() == "topic"


async def test_reading_does_not_ring(
    crew_redis: CrewRedis, bell: Bell, prefix: bytes
) -> None:
    """Only a change does."""
    notes, acme = Notes(), crew_redis.tenant("acme")
    await acme.set(DataType.KNOWLEDGE, "a", 1)
    with bell.listen(prefix, notes):
        assert await notes.next() == "healthy"

        await acme.get(DataType.KNOWLEDGE, "a")
        await acme.set(DataType.KNOWLEDGE, "b", 1)

        assert await notes.next() == "b"


async def test_one_key_can_be_waited_for(
    crew_redis: CrewRedis, bell: Bell, prefix: bytes
) -> None:
    """Ask before you look; the answer is True when the key has changed since."""
    notes, acme = Notes(), crew_redis.tenant("acme")
    with bell.listen(prefix, notes) as registration:
        assert await notes.next() == "healthy"
        changed = registration.rung(prefix + b"topic")
        assert await acme.get(DataType.KNOWLEDGE, "topic") is None

        await acme.set(DataType.KNOWLEDGE, "topic", "here")

        async with asyncio.timeout(5):
            assert await changed


async def test_who_listens_no_more_is_told_nothing(
    crew_redis: CrewRedis, bell: Bell, prefix: bytes
) -> None:
    """Leaving the block ends it, while others go on listening."""
    gone, here, acme = Notes(), Notes(), crew_redis.tenant("acme")
    with bell.listen(prefix, here):
        assert await here.next() == "healthy"
        with bell.listen(prefix, gone):
            assert await gone.next() == "healthy"

        await acme.set(DataType.KNOWLEDGE, "topic", 1)

        assert await here.next() == "topic"
        assert gone.told.empty()
