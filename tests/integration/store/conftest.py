"""A running crew on the server of the test, and two of its tenants."""

import os

import pytest

from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.settings import CrewSettings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("REDIS_CREW_", "REDIS_CIRCUIT_BREAKER_")):
            monkeypatch.delenv(name)


@pytest.fixture
def settings(server):
    return CrewSettings(unix_socket=server.unix_socket)


@pytest.fixture
async def crew(settings):
    async with CrewRedis(settings) as crew:
        yield crew


@pytest.fixture
def acme(crew):
    return crew.tenant("acme")


@pytest.fixture
def globex(crew):
    return crew.tenant("globex")
