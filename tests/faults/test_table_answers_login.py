"""Row 10 of the failure table: the server refuses the credentials.

They will not get better by trying: one attempt, then a pause, and meanwhile the same
answer at once. Whoever corrects the server or the secret need not restart anybody.
"""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis import CrewRedis
from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis.errors import ConfigurationError
from tests.faults.answers import KINDS, hard_failures, server_of, timed, wired
from tests.integration.core.bench import eventually, outcome, wire
from tests.rig.waiting import wait_until

SECRET = "open-sesame"
WRONG = "guessed-wrong"


@pytest.fixture(params=KINDS)
async def local(request):
    async with server_of(request.param) as server:
        yield server


async def lock_out(local):
    """Ask for a password from now on, and end what was let in without."""
    await local.faults.require_password(SECRET)
    await local.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def refused_logins(local):
    """Return how often the server has refused somebody's password."""
    info = await local.execute("INFO", "errorstats")
    assert isinstance(info, bytes)
    for line in info.decode().splitlines():
        if line.startswith("errorstat_WRONGPASS:count="):
            return int(line.partition("=")[2])
    return 0


async def test_a_wrong_password_is_tried_once(local):
    """Fifty callers at once, and fifty after them: the server hears of one."""
    await local.faults.require_password(SECRET)
    async with wire({**local.client_kwargs, "password": WRONG}) as client:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(client.get("k"))) for _ in range(50)]
        errors = [task.result() for task in tasks]
        errors += [await outcome(client.get("k")) for _ in range(50)]

        assert all(isinstance(each, ConfigurationError) for each in errors)
        assert await refused_logins(local) == 1


async def test_the_answer_comes_at_once_during_the_pause(local):
    """It names the variables to look at, and neither password."""
    await local.faults.require_password(SECRET)
    async with wire({**local.client_kwargs, "password": WRONG}) as client:
        await outcome(client.get("k"))

        answer = await timed(client.get("k"))

        assert isinstance(answer.value, ConfigurationError)
        assert answer.seconds < 0.05
        assert "REDIS_CREW_PASSWORD" in str(answer.value)
        assert SECRET not in str(answer.value)
        assert WRONG not in str(answer.value)


async def test_the_pause_is_five_seconds():
    """Long enough for no server to take it for an attack."""
    async with server_of("valkey") as local:
        await local.faults.require_password(SECRET)
        async with wire({**local.client_kwargs, "password": WRONG}) as client:
            await outcome(client.get("k"))

            assert client.node.settings.auth_pause >= 5.0


async def test_refused_credentials_are_no_failure_of_the_node(local):
    """It answers: the circuit stays closed."""
    await local.faults.require_password(SECRET)
    async with wire({**local.client_kwargs, "password": WRONG}) as client:
        for _ in range(20):
            await outcome(client.get("k"))

        assert client.circuit_state is CircuitState.CLOSED
        assert client.statistics().circuit.hard == 0


async def test_a_corrected_server_is_used_after_the_pause(local):
    """Nobody has to restart a process for it."""
    await local.faults.require_password(SECRET)
    kwargs = {**local.client_kwargs, "password": WRONG}
    async with wire(kwargs, auth_pause=0.1) as client:
        await outcome(client.get("k"))
        await local.faults.require_password(WRONG)

        async def works():
            return await outcome(client.set("k", "v")) is True

        await wait_until(works, "the password is right now")


async def test_a_password_asked_for_later_is_refused_the_same(local):
    """NOAUTH after a reconnect: what was let in before is a stranger now."""
    async with wired(local) as port:
        await lock_out(local)

        errors = [await outcome(port.send("GET", "k")) for _ in range(20)]

        # The first one may have met the end of its connection.
        assert all(isinstance(each, ConfigurationError) for each in errors[1:])
        assert hard_failures(port) <= 1


async def test_a_locked_out_crew_is_not_ready_and_comes_back(local):
    """The health report says which variable to look at; a restart would not help."""
    settings = local.settings(command_timeout=0.5)
    async with CrewRedis(settings) as crew:
        await crew.redis.ping()
        await lock_out(local)
        await outcome(crew.redis.ping())

        report = await crew.health()

        assert report.is_live
        assert not report.is_ready
        reasons = [each.reason for each in report.components if each.name == "redis"]
        assert "REDIS_CREW_PASSWORD" in str(reasons)
        assert SECRET not in str(reasons)
        await local.faults.heal()
        crew.redis.node.connector._next = 0.0  # five seconds later
        await eventually(crew.redis.ping, "it is let in again")
