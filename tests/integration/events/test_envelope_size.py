"""What an event costs in Redis beyond its payload, as the servers count it."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.envelope import BODY, ENVELOPE, pack_envelope
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.streams import stream_key
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.events.making import make_envelope, new_id
from tests.rig.servers import RealServer

COUNT = 20_000
MOST = 130  # bytes for each entry
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STREAM = stream_key(KeySpace().tenant("acme"), "order.paid", 2)
BODIES = [MsgpackCodec().encode({"order": 7, "note": "x" * n}) for n in (80, 150)]


def envelope(number: int) -> bytes:
    """Say all that is usually said: correlation, causation, trace and key."""
    return pack_envelope(
        make_envelope(
            key=f"customer-{number % 1_000:04}",
            correlation_id=id_text(new_id()),
            causation_id=id_text(new_id()),
            traceparent=TRACE,
        )
    )


async def cost(server: RealServer, body: bytes, *, with_envelope: bool) -> float:
    """Return the bytes of one of 20,000 entries, beyond the payload's own."""
    async with Redis(**server.client_kwargs) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(COUNT):
            said = {ENVELOPE: envelope(number)} if with_envelope else {}
            pipe.xadd(STREAM, {**said, BODY: body})
        await pipe.execute()
        used = await client.memory_usage(STREAM, samples=0)
        await client.delete(STREAM)
    assert used is not None
    return used / COUNT - len(body)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{len(body)} bytes")
async def test_an_entry_costs_at_most_130_bytes_beyond_its_payload(
    server: RealServer, body: bytes
) -> None:
    """The server's own bookkeeping included."""
    assert await cost(server, body, with_envelope=True) <= MOST


@pytest.mark.every_server
@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{len(body)} bytes")
async def test_an_envelope_costs_at_most_130_bytes(
    server: RealServer, body: bytes
) -> None:
    """Compared with an entry that has the payload alone.

    Redis estimates what it needs for a stream's index; Valkey counts it.
    """
    bare = await cost(server, body, with_envelope=False)

    assert await cost(server, body, with_envelope=True) - bare <= MOST
