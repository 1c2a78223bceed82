"""Transactions of bad times: lost replies, absent servers, full journals."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis.errors import (
    FallbackFullError,
    OutcomeUnknownError,
    RefusedError,
    UnavailableError,
)
from mcp_crew_redis.events.operations import Sum
from mcp_crew_redis.store.journal.entries import Posting
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import WriteOutcome
from tests.integration.core.bench import outcome
from tests.rig.waiting import wait_until

STATE, COUNTER = DataType.STATE, DataType.COUNTER
STREAM = b"mcp-crew:events:{acme}:order.paid:normal"
VALUE = b"mcp-crew:counter:{acme}:n"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("REDIS_CREW_", "REDIS_CIRCUIT_BREAKER_")):
            monkeypatch.delenv(name)


@asynccontextmanager
async def crew_at(socket, **settings):
    """Give a crew at a socket, with a circuit that comes back soon."""
    given = {"circuit_breaker_timeout": 0.05, "command_timeout": 1.0, **settings}
    async with CrewRedis(CrewSettings(unix_socket=Path(socket), **given)) as crew:
        yield crew


@pytest.fixture
async def proxy(server):
    server.execute("SCRIPT", "LOAD", ScriptLoader().load("transact").source)
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def crew(proxy):
    async with crew_at(proxy.unix_socket) as crew:
        await crew.manager._store.registry.note_type("acme", "order.paid")
        await crew.tenant("acme").set(STATE, "warm", 1)
        yield crew


@pytest.fixture
def acme(crew):
    return crew.tenant("acme")


async def pay(acme, number=1, **condition):
    """Apply a transaction with one of each."""
    async with acme.transaction() as tx:
        tx.set(STATE, f"order:{number}", number, **condition)
        tx.increment(COUNTER, "n", number)
        tx.publish("order.paid", number)
    return tx.result


def stands(server):
    """Return what the transactions of a server have come to."""
    return int(server.execute("HGET", VALUE, "v") or 0), server.execute("XLEN", STREAM)


async def away(crew, proxy):
    """Take Redis away, and wait until the crew knows."""
    proxy.refuse()
    proxy.cut()

    async def is_known():
        await outcome(crew.redis.get("x"))
        return crew.redis.node.breaker.state is not CircuitState.CLOSED

    await wait_until(is_known, "the circuit opens")


async def back(crew, proxy, timeout=10):  # noqa: ASYNC109 - of the journal
    """Give it back, and wait until the journal is empty and all is served."""
    proxy.heal()
    await proxy.accept()
    await crew.journal.drained(timeout)

    async def is_served():
        await outcome(crew.redis.get("x"))
        return crew.redis.node.breaker.is_closed

    await wait_until(is_served, "the ramp is over")


# --- lost replies -------------------------------------------------------------------


@pytest.mark.every_server
async def test_a_transaction_whose_reply_is_lost_is_applied_once(server, proxy, acme):
    """Sent again under its name it gets the result of the first time."""
    proxy.drop_reply_to(b"order.paid")

    result = await pay(acme)

    await proxy.wait_for_dropped_reply()
    assert result.outcome is WriteOutcome.STORED
    assert result.counters == {"n": 1}
    assert stands(server) == (1, 1)
    ((place, _),) = server.execute("XRANGE", STREAM, "-", "+")
    assert result.receipts[0].stream_id == place.decode()
    assert await acme.get(STATE, "order:1") == 1


async def test_a_condition_holds_once_although_the_reply_was_lost(server, proxy, acme):
    """The repetition does not stumble over the first one's own write."""
    proxy.drop_reply_to(b"order.paid")

    result = await pay(acme, if_stamp=0)

    assert result.outcome is WriteOutcome.STORED
    assert stands(server) == (1, 1)


async def test_unanswered_for_good_it_waits_and_is_still_applied_once(
    server, proxy, crew, acme
):
    """The journal's attempt finds its mark."""
    proxy.replies.stall()
    result = await pay(acme)
    assert result.outcome is WriteOutcome.DEFERRED
    assert result.receipts[0].outcome is WriteOutcome.DEFERRED
    assert result.stamp is None
    assert not result.counters
    assert stands(server) == (1, 1)

    proxy.cut()
    await back(crew, proxy)

    assert stands(server) == (1, 1)


async def test_a_conditional_one_that_is_unanswered_raises(server, proxy, acme):
    """Nobody can say whether it was applied; it does not wait."""
    proxy.replies.stall()

    with pytest.raises(UnavailableError):
        await pay(acme, if_stamp=0)

    proxy.cut()
    proxy.heal()
    assert stands(server) == (1, 1)


async def test_what_is_in_doubt_says_so(server, proxy, crew, acme):
    """Sent, and the connection gone for good before the answer."""
    proxy.replies.stall()
    error = None

    async def try_it():
        nonlocal error
        error = await outcome(pay(acme, if_stamp=0))

    async with asyncio.TaskGroup() as group:
        group.create_task(try_it())
        await wait_until(lambda: stands(server) == (1, 1), "it is applied")
        proxy.refuse()
        proxy.cut()

    assert isinstance(error, OutcomeUnknownError)


# --- outages ------------------------------------------------------------------------


@pytest.mark.every_server
async def test_what_waits_is_applied_once_and_in_order(server, proxy, crew, acme):
    """As a whole each, and those behind one that waits, behind it."""
    await pay(acme, 1)
    await away(crew, proxy)
    for number in range(2, 12):
        result = await pay(acme, number)
        assert result.outcome is WriteOutcome.DEFERRED
    with pytest.raises(UnavailableError):
        await pay(acme, 99, if_stamp=0)
    assert stands(server) == (1, 1)

    await back(crew, proxy)

    assert stands(server) == (sum(range(12)), 11)
    bodies = [fields[b"d"] for _, fields in server.execute("XRANGE", STREAM, "-", "+")]
    assert bodies == [bytes([number]) for number in range(1, 12)]
    assert await acme.get(STATE, "order:11") == 11
    assert (await pay(acme, 12)).outcome is WriteOutcome.STORED


async def test_those_that_come_while_others_land_go_behind_them(
    server, proxy, crew, acme
):
    """Slowed down, not for a whole timeout, and in their order."""
    await away(crew, proxy)
    for number in range(1, 41):
        await pay(acme, number)
    proxy.heal()
    await proxy.accept()
    journal = crew.manager._store.journal
    await wait_until(lambda: journal.depth < 40, "they begin to land")

    number = 40
    while crew.journal.statistics().depth or not crew.redis.node.breaker.is_closed:
        number += 1
        await pay(acme, number)
    await back(crew, proxy)

    entries = server.execute("XRANGE", STREAM, "-", "+")
    told = [msgpack.unpackb(fields[b"d"]) for _, fields in entries]
    assert told == list(range(1, number + 1))


async def test_it_outlives_its_server_and_its_process(own_server, tmp_path):
    """With a folder for the journal."""
    own_server.kill()
    async with crew_at(own_server.unix_socket, journal_dir=tmp_path) as crew:
        for number in range(1, 4):
            assert (
                await pay(crew.tenant("acme"), number)
            ).outcome is WriteOutcome.DEFERRED
    own_server.start()

    async with crew_at(own_server.unix_socket, journal_dir=tmp_path) as crew:
        await crew.journal.drained(10)

    assert stands(own_server) == (6, 3)
    assert own_server.execute("ZRANGE", "mcp-crew:tenants", 0, -1) == [b"acme"]
    types = own_server.execute("SMEMBERS", "mcp-crew:meta:{acme}:types")
    assert set(types) == {b"order.paid"}


async def test_newer_values_of_others_stay(server, proxy, crew, acme):
    """The rest of what waited is applied all the same."""
    await away(crew, proxy)
    await pay(acme)
    async with crew_at(server.unix_socket) as other:
        await other.tenant("acme").set(STATE, "order:1", "newer")

    await back(crew, proxy)

    assert await acme.get(STATE, "order:1") == "newer"
    assert stands(server) == (1, 1)


async def test_a_purged_tenant_does_not_come_back(server, proxy, crew, acme):
    """What was accepted before the purge is dropped."""
    await away(crew, proxy)
    await pay(acme)
    async with crew_at(server.unix_socket) as other:
        await other.tenant("acme").purge()

    await back(crew, proxy)

    assert stands(server) == (0, 0)
    assert not await acme.exists(STATE, "order:1")
    assert crew.journal.unresolved() == []


async def test_a_full_journal_refuses_it_whole(proxy, crew, acme):
    """Nothing is accepted."""
    await away(crew, proxy)
    crew.manager._store.journal._max_entries = 1
    await pay(acme)

    with pytest.raises(FallbackFullError):
        await pay(acme)
    assert crew.journal.statistics().depth == 1


async def test_one_that_cannot_be_applied_waits_for_a_decision(
    server, proxy, crew, acme
):
    """Nothing of it is applied, and live ones go on."""
    await acme.increment(COUNTER, "n", 2**63 - 1)
    await away(crew, proxy)
    await pay(acme)

    await back(crew, proxy)

    (waits,) = crew.journal.unresolved()
    assert "64-bit" in waits.reason
    assert not await acme.exists(STATE, "order:1")
    async with acme.transaction() as tx:
        tx.set(STATE, "other", 1)
    assert tx.result.outcome is WriteOutcome.STORED

    await acme.increment(COUNTER, "n", -1)
    assert crew.journal.apply([waits]) == 1
    await crew.journal.drained(5)
    assert await acme.get(STATE, "order:1") == 1
    assert stands(server) == (2**63 - 1, 1)


def posting(acme, body=None, made_us=1):
    """Return an entry of the journal, as it was left."""
    floor = b"mcp-crew:meta:{acme}:floor"
    tx = acme.transaction()
    tx._batch.add(VALUE, Sum("n", 5, 60_000))
    return Posting(
        id=tx._batch.id,
        tenant_id="acme",
        kind="transaction",
        order_key=floor,
        body=tx._batch.pack() if body is None else body,
        made_us=made_us,
    )


async def test_one_that_is_older_than_all_marks_waits_for_a_decision(
    server, crew, acme
):
    """Its owner may have it applied nevertheless."""
    store = crew.manager._store
    await store.context.stamps.ready()
    await store.fallback.post(posting(acme))
    await wait_until(lambda: bool(crew.journal.unresolved()), "it waits")
    (waits,) = crew.journal.unresolved()
    assert "TOMBSTONE_TTL" in waits.reason
    assert stands(server) == (0, 0)

    assert crew.journal.apply([waits]) == 1
    await crew.journal.drained(5)

    assert stands(server) == (5, 0)


async def test_one_that_cannot_be_read_holds_up_nobody(server, crew, acme):
    """It waits for a decision; others of the journal go on."""
    store = crew.manager._store
    await store.context.stamps.ready()
    await store.fallback.post(posting(acme, body=b"\xc1"))
    await wait_until(lambda: bool(crew.journal.unresolved()), "it waits")

    assert (await pay(acme)).outcome is WriteOutcome.STORED


# --- another server -----------------------------------------------------------------


async def test_a_new_server_gets_back_what_the_old_one_had_taken(own_server):
    """Values, sums and events, once; a conditional one is left to its caller."""
    async with crew_at(own_server.unix_socket) as crew:
        acme = crew.tenant("acme")
        for number in range(1, 4):
            await pay(acme, number)
        await pay(acme, 10, if_stamp=0)
        own_server.restart(keep_data=False)

        async def is_restored():
            return crew.manager._store.window.statistics.replays > 0

        await outcome(acme.get(STATE, "warm"))
        await wait_until(is_restored, "it is put back")
        await wait_until(lambda: stands(own_server) == (6, 3), "all of it")
        assert await eventually(acme, "order:3") == 3
    events = own_server.execute("XRANGE", STREAM, "-", "+")
    assert [fields[b"d"] for _, fields in events] == [b"\x01", b"\x02", b"\x03"]


async def test_what_a_new_server_refuses_for_now_waits_in_the_journal(own_server):
    """Without memory it takes nothing back; with some, all of it, once."""
    async with crew_at(own_server.unix_socket) as crew:
        acme = crew.tenant("acme")
        for number in range(1, 4):
            await pay(acme, number)
        store = crew.manager._store
        calls = store.window.calls(0.0)
        store.window.restored(calls, [RefusedError("OOM")] * len(calls))
        own_server.execute("FLUSHALL")

        store.sync.kick()
        await crew.journal.drained(10)

        assert stands(own_server) == (6, 3)
        assert await acme.get(STATE, "order:3") == 3


async def eventually(tenant, identifier):
    """Return a value once the circuit has closed."""
    while True:
        value = await outcome(tenant.get(STATE, identifier))
        if not isinstance(value, Exception):
            return value
        await asyncio.sleep(0.05)
