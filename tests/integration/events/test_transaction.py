"""Transactions of a crew: what they check, what they apply, and what they say of it."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._wire.streams import stream_name
from mcp_crew_redis.errors import (
    CodecError,
    ConflictError,
    DataError,
    InvalidEventTypeError,
    InvalidIdentifierError,
    InvalidTtlError,
    LifecycleError,
    RefusedError,
    ValueTooLargeError,
)
from mcp_crew_redis.events.decoding import Decoder
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from mcp_crew_redis.types import WriteOutcome

STATE, COUNTER, CACHE = DataType.STATE, DataType.COUNTER, DataType.CACHE
STREAM = b"mcp-crew:events:{acme}:order.paid:normal"
everywhere = pytest.mark.every_server


class Paid(BaseModel):
    order: int


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("REDIS_CREW_", "REDIS_CIRCUIT_BREAKER_")):
            monkeypatch.delenv(name)


@pytest.fixture
async def crew(server):
    catalog = EventCatalog([EventSchema(type="order.checked", payload=Paid)])
    settings = CrewSettings(unix_socket=server.unix_socket)
    async with CrewRedis(settings, event_catalog=catalog) as crew:
        yield crew


@pytest.fixture
def acme(crew):
    return crew.tenant("acme")


async def apply(tenant, fill):
    """Have `fill` fill a transaction, and return it after its end."""
    async with tenant.transaction() as tx:
        fill(tx)
    return tx


def untouched(server):
    """Whether nothing of any transaction stands."""
    return not server.execute("KEYS", "mcp-crew:*{acme}*")


@everywhere
async def test_state_and_events_are_applied_together(server, crew, acme):
    """And the result tells of each."""
    async with acme.transaction() as tx:
        tx.set(STATE, "order:7", {"state": "paid"})
        tx.increment(COUNTER, "paid", 2)
        tx.increment(COUNTER, "paid", 3)
        event_id = tx.publish("order.paid", {"order": 7}, key="7")

    result = tx.result
    assert await acme.get(STATE, "order:7") == {"state": "paid"}
    assert result.outcome is WriteOutcome.STORED
    assert result.counters == {"paid": 5}
    (receipt,) = result.receipts
    assert receipt.event_id == event_id
    ((place, fields),) = server.execute("XRANGE", STREAM, "-", "+")
    assert place.decode() == receipt.stream_id
    hub = crew.events.hub
    decoder = Decoder(hub.codec, hub.catalog)
    event = decoder.event(
        stream_name(hub.keys, STREAM), place, fields[b"m"], fields[b"d"]
    )
    assert (event.id, event.key, event.payload) == (event_id, "7", {"order": 7})


async def test_a_tenant_and_its_type_are_noted_first(server, acme):
    """Whoever listens finds them."""
    async with acme.transaction() as tx:
        tx.publish("order.paid", 1)

    assert server.execute("ZRANGE", "mcp-crew:tenants", 0, -1) == [b"acme"]
    assert server.execute("SMEMBERS", "mcp-crew:meta:{acme}:types") == {b"order.paid"}


async def test_a_body_that_raises_sends_nothing(server, acme):
    """The error is its own."""

    def fill(tx):
        tx.set(STATE, "a", 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await apply(acme, fill)

    assert untouched(server)


async def test_what_has_not_ended_well_has_no_result(acme):
    """It would be a guess."""
    tx = acme.transaction()

    with pytest.raises(LifecycleError):
        tx.result  # noqa: B018 - it is to raise


async def test_an_empty_transaction_sends_nothing(server, acme):
    """There is nothing to apply."""
    async with acme.transaction() as tx:
        pass

    assert tx.result.outcome is WriteOutcome.STORED
    assert untouched(server)


async def test_reads_inside_see_redis(acme):
    """Not what is collected."""
    await acme.set(STATE, "a", "old")
    async with acme.transaction() as tx:
        tx.set(STATE, "a", "new")
        assert await acme.get(STATE, "a") == "old"

    assert await acme.get(STATE, "a") == "new"


async def test_a_condition_holds_or_nothing_is_applied(acme):
    """The stamp of what was read, or that of an earlier transaction."""
    async with acme.transaction() as tx:
        tx.set(STATE, "a", 1, if_stamp=0)
    async with acme.transaction() as second:
        tx_stamp = (await acme.get_entry(STATE, "a")).stamp
        assert tx_stamp == tx.result.stamp
        second.set(STATE, "a", 2, if_stamp=tx_stamp)

    def fill(third):
        third.set(STATE, "a", 3, if_stamp=tx_stamp)
        third.increment(COUNTER, "n")
        third.publish("order.paid", 1)

    with pytest.raises(ConflictError, match="if_stamp"):
        await apply(acme, fill)

    assert await acme.get(STATE, "a") == 2
    assert not await acme.exists(COUNTER, "n")


async def test_a_deleted_value_is_absent_for_a_condition(acme):
    """A tombstone is nothing."""
    await acme.set(STATE, "a", 1)
    async with acme.transaction() as tx:
        tx.delete(STATE, "a")
    async with acme.transaction() as tx:
        tx.set(STATE, "a", 2, if_stamp=0)

    assert await acme.get(STATE, "a") == 2


async def test_one_of_two_that_read_the_same_wins(acme):
    """Optimistic updates of many callers lose none."""
    await acme.set(STATE, "n", 0)

    async def add_one():
        while True:
            entry = await acme.get_entry(STATE, "n")
            try:
                async with acme.transaction() as tx:
                    tx.set(STATE, "n", entry.value + 1, if_stamp=entry.stamp)
                    tx.publish("order.paid", entry.value)
            except ConflictError:
                continue
            return

    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(add_one())

    assert await acme.get(STATE, "n") == 12


async def test_a_live_transaction_is_newer_than_what_stands(acme, crew):
    """Its caller is here: a stamp from the future is passed."""
    store = crew.manager._store
    key = store.keys.tenant("acme").key(STATE, "a")
    sealed = store.values.sealed(2**52, store.values.encoded("x"), 60_000)
    await store.context.port.send("SET", key, sealed, "PX", 60_000)

    async with acme.transaction() as tx:
        tx.set(STATE, "a", "y")

    assert await acme.get(STATE, "a") == "y"
    assert tx.result.stamp > 2**52


async def test_the_last_write_of_a_value_counts(server, acme):
    """The condition of the first one stays."""
    async with acme.transaction() as tx:
        tx.set(STATE, "a", 1, if_stamp=0)
        tx.set(STATE, "a", 2)
        tx.set(CACHE, "c", 1)
        tx.delete(CACHE, "c")
        with pytest.raises(DataError, match="condition"):
            tx.set(STATE, "a", 3, if_stamp=5)

    assert await acme.get(STATE, "a") == 2
    assert not await acme.exists(CACHE, "c")


async def test_an_event_is_idempotent_under_its_id(server, acme):
    """Across transactions, and beside plain publishes."""
    for expected in (False, True):
        async with acme.transaction() as tx:
            tx.publish("order.paid", 1, event_id="e-1", idempotent=True)
        assert tx.result.receipts[0].is_duplicate is expected
        assert tx.result.receipts[0].stream_id is not None

    assert server.execute("XLEN", STREAM) == 1


async def test_an_event_may_wait_for_its_time(server, acme):
    """It has no place before."""
    async with acme.transaction() as tx:
        tx.publish("order.paid", 1, delay=60, event_id="e-1")

    assert tx.result.receipts[0].stream_id is None
    assert server.execute("ZRANGE", "mcp-crew:events:{acme}:scheduled", 0, -1) == [
        b"e-1"
    ]
    assert not server.execute("EXISTS", STREAM)


async def test_what_is_wrong_is_told_at_once(server, acme):
    """Before anything is sent."""
    async with acme.transaction() as tx:
        for error, call in (
            (DataError, lambda: tx.set(COUNTER, "n", 1)),
            (DataError, lambda: tx.set(DataType.SESSION, "n", 1)),
            (DataError, lambda: tx.increment(STATE, "n")),
            (DataError, lambda: tx.increment(COUNTER, "n", 2**63)),
            (DataError, lambda: tx.delete(COUNTER, "n")),
            (DataError, lambda: tx.set(STATE, "n", 1, if_stamp=-1)),
            (DataError, lambda: tx.set(STATE, "n", 1, if_stamp=True)),
            (DataError, lambda: tx.set(STATE, "n", 1, kind="?")),
            (InvalidTtlError, lambda: tx.set(STATE, "n", 1, ttl=0)),
            (InvalidTtlError, lambda: tx.publish("a.b", 1, delay=-1)),
            (InvalidIdentifierError, lambda: tx.set(STATE, "", 1)),
            (InvalidEventTypeError, lambda: tx.publish("A B", 1)),
            (CodecError, lambda: tx.set(STATE, "n", object())),
            (CodecError, lambda: tx.publish("order.checked", {"order": "x"})),
        ):
            with pytest.raises(error):
                call()

    assert untouched(server)


async def test_a_transaction_is_bounded(server, acme):
    """By operations and by bytes; what was collected before stays."""
    async with acme.transaction() as tx:
        for number in range(1_000):
            tx.set(STATE, f"s{number}", number)
        tx.set(STATE, "s0", "again")
        with pytest.raises(DataError, match="1000"):
            tx.publish("order.paid", 1)
    assert tx.result.stamp
    assert await acme.get(STATE, "s999") == 999

    def fill(tx):
        for number in range(20):
            tx.set(STATE, f"b{number}", bytes(500_000))

    with pytest.raises(ValueTooLargeError):
        await apply(acme, fill)
    assert not await acme.exists(STATE, "b0")


async def test_a_transaction_is_used_once(acme):
    """And only between its beginning and its end."""
    tx = acme.transaction()
    with pytest.raises(LifecycleError):
        tx.set(STATE, "a", 1)
    async with tx:
        pass
    with pytest.raises(LifecycleError):
        tx.publish("order.paid", 1)
    with pytest.raises(LifecycleError):
        async with tx:
            pass


async def test_a_counter_that_would_overflow_stops_all(server, acme):
    """Exactly at 64 bits."""
    await acme.increment(COUNTER, "n", 2**63 - 1)

    def fill(tx):
        tx.set(STATE, "a", 1)
        tx.increment(COUNTER, "n")

    with pytest.raises(DataError, match="64-bit"):
        await apply(acme, fill)
    assert not await acme.exists(STATE, "a")

    async with acme.transaction() as tx:
        tx.increment(COUNTER, "n", -1)
    assert tx.result.counters == {"n": 2**63 - 2}
    assert await acme.increment(COUNTER, "n") == 2**63 - 1


async def test_tenants_do_not_meet(crew, acme):
    """Each has its own."""
    globex = crew.tenant("globex")
    async with acme.transaction() as tx, globex.transaction() as other:
        tx.set(STATE, "a", "acme")
        other.set(STATE, "a", "globex")

    assert await acme.get(STATE, "a") == "acme"
    assert await globex.get(STATE, "a") == "globex"


async def test_a_server_without_memory_applies_nothing(make_server):
    """Said so; with memory it goes on."""
    server = make_server("valkey", "--maxmemory-policy", "noeviction")
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        acme = crew.tenant("acme")
        await acme.set(STATE, "warm", 1)
        server.execute("CONFIG", "SET", "maxmemory", 1)

        def fill(tx):
            tx.delete(STATE, "warm")
            tx.set(STATE, "a", 1)

        with pytest.raises(RefusedError, match="OOM"):
            await apply(acme, fill)
        assert crew.journal.statistics().depth == 0

        server.execute("CONFIG", "SET", "maxmemory", 0)
        assert await acme.get(STATE, "warm") == 1


async def test_what_an_event_says_of_itself_is_checked_and_kept(crew, acme):
    """The same attributes as of a publish alone."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    async with acme.transaction() as tx:
        tx.publish(
            "order.checked", {"order": 7}, source="till", occurred_at=when, expires_in=9
        )

    assert tx.result.receipts[0].stream_id
