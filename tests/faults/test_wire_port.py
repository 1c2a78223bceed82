"""The port of the floors above: what it says when replies get lost."""

from __future__ import annotations

import pytest

from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis.errors import DataError, OutcomeUnknownError
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import outcome, wire


@pytest.fixture
async def proxy(server):
    async with FaultProxy(server.unix_socket) as path:
        yield path


async def test_repeatable_command_is_sent_again(server, proxy):
    """Its caller gets the second answer; the command was executed twice."""
    async with wire(proxy.client_kwargs) as client:
        await client.ping()
        proxy.drop_reply_to(b"INCR")

        answer = await Port(client, ScriptLoader()).send(
            "INCR", "n", is_repeatable=True
        )

        assert answer == 2


async def test_repeatable_command_sent_once_and_then_in_vain_is_unknown(server, proxy):
    """Not 'nothing was sent': the first attempt was executed."""
    async with wire(proxy.client_kwargs) as client:
        await client.ping()
        proxy.drop_reply_to(b"INCR")
        proxy.refuse()  # the living connection goes on, the next dial fails

        error = await outcome(
            Port(client, ScriptLoader()).send("INCR", "n", is_repeatable=True)
        )

        assert isinstance(error, OutcomeUnknownError)
        assert server.execute("GET", "n") == b"1"


async def test_answer_that_refuses_is_one_of_our_errors(server):
    """Nothing above the port knows redis-py's words."""
    async with wire(server.client_kwargs) as client:
        await client.rpush("l", "x")

        error = await outcome(Port(client, ScriptLoader()).send("GET", "l"))

        assert isinstance(error, DataError)
