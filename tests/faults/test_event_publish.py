"""Publishing while connections are cut and servers killed: all is accounted for."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from random import Random

import msgpack
import pytest

from mcp_crew_redis.errors import UnavailableError
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.many import PublishManyError
from mcp_crew_redis.store.counting import may_have_happened
from mcp_crew_redis.testing import FaultProxy
from tests.integration.events.publish_parts import bodies, buses
from tests.integration.store.outage_parts import drained

CALLERS, EACH = 8, 150


class Ledger:
    """What callers were told of each event, by name."""

    def __init__(self):
        self.sure = set()
        self.doubtful = set()

    def failed(self, name, error):
        """Take note of an event that raised."""
        if may_have_happened(error):
            self.doubtful.add(name)

    def check(self, found):
        """Hold what stands against what was said."""
        counts = Counter(found)
        assert not {name for name in self.sure if counts[name] != 1}
        assert max(counts.values()) == 1
        assert set(counts) <= self.sure | self.doubtful


async def publish_all(bus, caller, ledger, *, idempotent):
    """Publish one after the other on a stream of its own; and keep the order."""
    events = bus.of("acme")
    for number in range(EACH):
        name = f"{caller}-{number:03}"
        try:
            if number % 10 == 9:
                many = [Event.new(f"load.c{caller}", name)]
                await events.publish_many(many, idempotent=idempotent)
            else:
                await events.publish(f"load.c{caller}", name, idempotent=idempotent)
        except PublishManyError as error:
            ledger.failed(name, error.errors[0])
        except UnavailableError as error:
            ledger.failed(name, error)
        else:
            ledger.sure.add(name)
        await asyncio.sleep(0.004)


async def trouble(proxy, random):
    """Cut, refuse and accept, until cancelled."""
    while True:
        await asyncio.sleep(random.uniform(0.02, 0.15))
        proxy.cut()
        if random.random() < 0.3:
            proxy.refuse()
            await asyncio.sleep(random.uniform(0.05, 0.3))
            await proxy.accept()


def found_in(server):
    """Return the names in each stream, in order."""
    found = defaultdict(list)
    for caller in range(CALLERS):
        key = f"p:events:{{acme}}:load.c{caller}:normal".encode()
        found[caller] = [msgpack.unpackb(body) for body in bodies(server, key)]
    return found


@pytest.mark.parametrize("idempotent", [False, True])
async def test_cut_connections_lose_and_double_nothing(own_server, idempotent):
    """What returned stands once, in order; what raised in doubt at most once."""
    ledger, random = Ledger(), Random(11)
    async with (
        FaultProxy(own_server.unix_socket) as proxy,
        buses(proxy.client_kwargs) as bus,
        asyncio.TaskGroup() as group,
    ):
        faults = group.create_task(trouble(proxy, random))
        async with asyncio.TaskGroup() as callers:
            for caller in range(CALLERS):
                callers.create_task(
                    publish_all(bus, caller, ledger, idempotent=idempotent)
                )
        faults.cancel()
        proxy.heal()
        await proxy.accept()
        await drained(bus.hub.store, 20.0)

    found = found_in(own_server)
    for names in found.values():
        assert names == sorted(names)
    ledger.check([name for names in found.values() for name in names])
    if idempotent:
        assert not ledger.doubtful


async def test_a_killed_server_loses_no_idempotent_event(own_server):
    """It comes back with nothing: what was acknowledged last is put back."""
    ledger = Ledger()
    async with buses(own_server.client_kwargs, replay_window=60.0) as bus:
        async with asyncio.TaskGroup() as callers:
            for caller in range(CALLERS):
                callers.create_task(publish_all(bus, caller, ledger, idempotent=True))
            for _ in range(2):
                await asyncio.sleep(0.25)
                own_server.restart(keep_data=False)
        await drained(bus.hub.store, 20.0)

    found = found_in(own_server)
    ledger.check([name for names in found.values() for name in names])
    assert not ledger.doubtful
