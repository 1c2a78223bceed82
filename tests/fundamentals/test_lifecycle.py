"""The lifecycle: life begins at `async with` and ends with it.

The tutorial's tier: one concept per test, the public API only, a real server.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mcp_crew_redis import (
    ConfigurationError,
    ConnectionLostError,
    CrewRedis,
    CrewSettings,
    LifecycleError,
)


class Counter:
    """A service that counts in Redis until it is asked to finish."""

    def __init__(self, name, crew, diary, needs=()):
        self.name, self.needs = name, needs
        self._crew, self._diary = crew, diary
        self._drained = asyncio.Event()

    async def run(self, *, task_status):
        await self._crew.redis.incr("lifecycle:started")
        self._diary.append(f"{self.name} ready")
        task_status.started()
        await self._drained.wait()
        await self._crew.redis.incr("lifecycle:finished")  # Redis is still there
        self._diary.append(f"{self.name} done")

    def drain(self):
        self._drained.set()


class Spec:
    """A service as data: built anew for each run of a crew."""

    def __init__(self, name, diary, needs=()):
        self._arguments = name, diary, needs

    def build(self, crew, /):
        name, diary, needs = self._arguments
        return Counter(name, crew, diary, needs)


@pytest.fixture
def settings(server):
    return CrewSettings(unix_socket=Path(server.unix_socket))


def test_construction_is_inert():
    """No socket, no task, no event loop: a crew may stand at module level."""
    crew = CrewRedis(CrewSettings(host="127.0.0.1", port=1))

    assert crew.state == "stopped"
    with pytest.raises(LifecycleError, match="async with"):
        _ = crew.redis


async def test_a_crew_serves_inside_its_block(settings):
    """Entering connects, leaving closes; afterwards it may be entered again."""
    crew = CrewRedis(settings)

    for _ in range(2):
        async with crew:
            assert await crew.redis.ping()
        assert crew.state == "stopped"


async def test_services_start_by_need_and_drain_in_reverse(settings):
    """Whoever feeds stops before whoever is fed, with Redis still there for both."""
    diary: list[str] = []
    specs = [Spec("consumer", diary, needs=("store",)), Spec("store", diary)]

    async with CrewRedis(settings, services=specs) as crew:
        assert await crew.redis.get("lifecycle:started") == b"2"

    assert diary == ["store ready", "consumer ready", "consumer done", "store done"]


async def test_cancelling_the_caller_drains(settings):
    """Cancelled or timed out, a crew does not tear its services: they finish first."""
    diary: list[str] = []
    entered = asyncio.Event()

    async def application():
        async with CrewRedis(settings, services=[Spec("worker", diary)]):
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as callers:
        running = callers.create_task(application())
        await entered.wait()
        running.cancel()

    assert running.cancelled()
    assert diary == ["worker ready", "worker done"]


async def test_health_says_whether_to_restart_and_whether_to_send_work(settings):
    """Live and ready, with the state of each component and never a secret."""
    crew = CrewRedis(settings)
    assert not (await crew.health()).is_ready

    async with crew:
        report = await crew.health()

    assert report.is_live
    assert report.is_ready
    names = {each.name for each in report.components}
    assert names == {"loop", "redis", "journal", "bell", "janitor"}


async def test_a_crew_starts_without_redis_unless_it_must_not():
    """`degraded` goes on with its journal, `strict` names address and variable."""
    nobody = {"host": "127.0.0.1", "port": 1}

    async with CrewRedis(CrewSettings(**nobody, start="degraded")) as crew:
        report = await crew.health()
    assert (report.is_live, report.is_ready, report.is_degraded) == (True, True, True)

    with pytest.raises(ConnectionLostError, match="REDIS_CREW_PORT"):
        async with CrewRedis(CrewSettings(**nobody, start="strict")):
            pass


def test_bad_settings_are_named_all_at_once(monkeypatch):
    """Variable, value and what is accepted; the password is never shown."""
    monkeypatch.setenv("REDIS_CREW_PORT", "abc")
    monkeypatch.setenv("REDIS_CIRCUIT_BREAKER_THRESHOLD", "-1")
    monkeypatch.setenv("REDIS_CREW_PASSWORD", "a-secret")

    with pytest.raises(ConfigurationError) as caught:
        CrewSettings()

    message = str(caught.value)
    assert "REDIS_CREW_PORT='abc': accepted is a port from 1 to 65535" in message
    assert "REDIS_CIRCUIT_BREAKER_THRESHOLD='-1'" in message
    assert "a-secret" not in message
