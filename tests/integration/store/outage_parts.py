"""What the tests of outages share: a store behind a proxy, and its ups and downs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from mcp_crew_redis._core.breaker import BreakerSettings, CircuitState
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.ttl import TtlPolicy
from mcp_crew_redis.clock import Clock, SystemClock
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.journal_view import JournalView
from mcp_crew_redis.store.manager import RedisManager
from mcp_crew_redis.store.stamps import StampSource
from mcp_crew_redis.store.store import Store
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import DataType
from tests.integration.core.bench import QUICK, outcome, wire
from tests.integration.store.parts import PREFIX
from tests.rig.waiting import wait_until

__all__ = ["Ahead", "away", "back", "drained", "manager_of", "opened", "state"]


class Ahead(SystemClock):
    """A machine whose wall clock is wrong by some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def wall(self) -> float:
        """Return the wrong time."""
        return super().wall() + self._seconds


@asynccontextmanager
async def opened(
    kwargs: dict[str, Any],
    *,
    clock: Clock | None = None,
    breaker: BreakerSettings = QUICK,
    tombstone_ttl: float = 86_400.0,
    max_value_bytes: int = 8 * 1024 * 1024,
    command_timeout: float = 1.0,
    pool_size: int = 10,
    **options: Any,
) -> AsyncIterator[Store]:
    """Give a store on the connection `kwargs`; it is closed at the end."""
    async with wire(kwargs, breaker=breaker, command_timeout=command_timeout) as client:
        port, clock = Port(client, ScriptLoader()), clock or SystemClock()
        context = StoreContext(
            port=port,
            stamps=StampSource(port, clock),
            keys=KeySpace(PREFIX),
            codec=MsgpackCodec(max_bytes=max_value_bytes),
            ttl=TtlPolicy(random=Random(7)),
            clock=clock,
            max_value_bytes=max_value_bytes,
            tombstone_ttl=tombstone_ttl,
        )
        store = Store(context, **options)
        try:
            yield store
        finally:
            await store.aclose()


def manager_of(store: Store) -> RedisManager:
    return RedisManager(store)


def state(identifier: str = "k", tenant_id: str = "acme") -> dict[str, Any]:
    """The names of a synchronised value."""
    return {
        "tenant_id": tenant_id,
        "data_type": DataType.STATE,
        "identifier": identifier,
    }


async def away(proxy: FaultProxy, store: Store) -> None:
    """Take Redis away from the store, and wait until its circuit knows."""
    proxy.refuse()
    proxy.cut()
    node = store.context.port.client.node

    async def is_known() -> bool:
        await outcome(store.context.port.send("PING"))
        return node.breaker.state is not CircuitState.CLOSED

    await wait_until(is_known, "the circuit opens")


async def back(proxy: FaultProxy) -> None:
    """Give it back."""
    proxy.heal()
    await proxy.accept()


async def drained(store: Store, timeout: float = 10.0) -> None:  # noqa: ASYNC109
    """Wait until nothing waits but what needs a decision."""
    await JournalView(store).drained(timeout)
