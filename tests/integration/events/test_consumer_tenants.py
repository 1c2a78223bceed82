"""Two tenants never see each other's events, under any pattern."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from mcp_crew_redis.events.outcomes import Reject, Retry
from mcp_crew_redis.events.subscriptions import ALL_TENANTS, Subscriptions
from tests.integration.events.consuming import (
    SOON,
    Record,
    consuming,
    is_settled,
    letters,
    stream,
    tally,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

PATTERNS = ("order.paid", "order.*", "order.>", "*.paid", "*.*", ">")
NAMES = ("acme", "acme2", "acm", "a-cme", "globex")


async def publish(crew, number, **options):
    """Publish the same type, key and id for each tenant, with its name in it."""
    for tenant in NAMES:
        payload = {"owner": tenant, "n": number}
        await crew.tenant(tenant).events.publish(
            "order.paid", payload, key="k", event_id=f"e{number}", **options
        )


def crossed(record, wanted):
    """Return events that are not their tenant's, or not wanted."""
    return [
        event
        for event in record.events
        if event.payload["owner"] != event.tenant_id or event.tenant_id not in wanted
    ]


@pytest.mark.parametrize("ordering", [None, "key"])
@pytest.mark.parametrize("pattern", PATTERNS)
async def test_the_same_type_group_and_key_is_never_crossed(server, pattern, ordering):
    """One process for each of two tenants, one for all, all in the same group name."""
    one, two, every = Record(), Record(), Record()
    tables = []
    for record, group, tenants in (
        (one, "g", ["acme"]),
        (two, "g", ["globex", "acm"]),
        (every, "all", ALL_TENANTS),
    ):
        table = Subscriptions()
        table.on(pattern, group=group, tenants=tenants, ordering=ordering)(
            record.handle
        )
        tables.append(table)
    async with AsyncExitStack() as stack:
        crews = [await stack.enter_async_context(consuming(server, t)) for t in tables]
        for number in range(20):
            await publish(crews[0][0], number)
        await one.until(20)
        await two.until(40)
        await every.until(100)

    assert crossed(one, {"acme"}) == []
    assert crossed(two, {"globex", "acm"}) == []
    assert crossed(every, set(NAMES)) == []
    assert [len(one), len(two), len(every)] == [20, 40, 100]


async def test_tenants_that_are_not_wanted_have_no_group(server):
    """Nothing of them is touched."""
    record = Record()
    table = Subscriptions()
    table.on(">", group="g", tenants=["acme"])(record.handle)
    async with consuming(server, table) as (crew, _):
        await publish(crew, 1)
        await record.until(1)

    for tenant in set(NAMES) - {"acme"}:
        assert server.execute("XINFO", "GROUPS", stream(tenant)) == []


async def test_batches_are_of_one_tenant_each(server):
    """However they lie beside each other."""
    lists = []
    table = Subscriptions()

    @table.on(">", group="g", batch=True, batch_size=50)
    async def handle(events):
        lists.append({(event.tenant_id, event.payload["owner"]) for event in events})

    async with consuming(server, table) as (crew, consumer):
        for number in range(60):
            await publish(crew, number)
        await wait_until(
            lambda: consumer.statistics()[0].handled == 60 * len(NAMES), "all are done"
        )

    assert all(len(one) == 1 for one in lists)
    assert {each for one in lists for each in one} == {(name, name) for name in NAMES}


async def test_failures_of_one_tenant_are_its_own(server):
    """Parked, buried, counted: each in its own books."""
    record = Record()
    table = Subscriptions()

    @table.on(">", group="g", backoff=SOON, max_deliveries=3)
    async def handle(event):
        if event.tenant_id == "acme":
            raise Reject("acme's")
        if event.tenant_id == "globex" and event.delivery_count == 1:
            raise Retry(after=0.05)
        await record.handle(event)

    async with consuming(server, table) as (crew, _):
        for number in range(5):
            await publish(crew, number)
        await record.until(20)
        for tenant in NAMES:
            await wait_until(lambda t=tenant: is_settled(server, stream(t)), "settled")

    assert crossed(record, set(NAMES) - {"acme"}) == []
    assert len(letters(server, "acme")) == 5
    assert [letters(server, name) for name in NAMES if name != "acme"] == [[]] * 4
    assert tally(server, "globex") == {"redelivered": 5}
    assert tally(server, "acme") == {"dead": 5}


async def test_dedup_of_one_tenant_is_its_own(server):
    """The same id is another event."""
    record = Record()
    table = Subscriptions()
    table.on(">", group="g", dedup=True)(record.handle)
    async with consuming(server, table) as (crew, _):
        for _ in range(3):
            await publish(crew, 1)
        await record.until(len(NAMES))
        for tenant in NAMES:
            await wait_until(lambda t=tenant: is_settled(server, stream(t)), "settled")

    assert sorted(event.tenant_id for event in record.events) == sorted(NAMES)


async def test_one_tenants_flood_leaves_the_others_their_turn(server):
    """They are handled beside it, not behind it."""
    handled = []
    table = Subscriptions()

    @table.on(">", group="g", concurrency=4)
    async def handle(event):
        handled.append(event.tenant_id)

    async with consuming(server, table) as (crew, _):
        flood = crew.tenant("acme").events
        for number in range(3_000):
            await flood.publish("order.paid", {"owner": "acme", "n": number})
        for number in range(20):
            await publish(crew, number)
        await wait_until(lambda: handled.count("globex") == 20, "they are handled", 10)
