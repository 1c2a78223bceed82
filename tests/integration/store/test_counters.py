"""Counters: one round trip for many callers, a value for each."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis._wire.keys import MetaKey
from mcp_crew_redis.errors import DataError, InvalidTtlError
from mcp_crew_redis.store.counters import Counters
from tests.integration.store.parts import all_of, store
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.every_server

TTL = 60_000
MAX, MIN = 2**63 - 1, -(2**63)


@pytest.fixture
async def context(server):
    async with store(server.client_kwargs) as context:
        yield context


@pytest.fixture
def keys(context):
    return context.keys.tenant("acme")


@pytest.fixture
def counters(context):
    return Counters(context, "writer")


def calls_of(server, name="evalsha"):
    stats = server.info("commandstats")
    return sum(stats.get(f"cmdstat_{n}", {}).get("calls", 0) for n in (name, "eval"))


async def test_an_increment_returns_the_new_value(counters, keys):
    """From an absent counter on, up and down."""
    assert await counters.read(keys, "n") is None
    assert await counters.increment(keys, "n", 5, TTL) == 5
    assert await counters.increment(keys, "n", -7, TTL) == -2
    assert await counters.increment(keys, "n", 0, TTL) == -2
    assert await counters.read(keys, "n") == -2


async def test_each_increment_renews_the_time_to_live(server, counters, keys):
    """A counter expires that long after its last increment."""
    await counters.increment(keys, "n", 1, TTL)
    await counters.increment(keys, "n", 1, 5_000)

    assert 0 < server.execute("PTTL", keys.key("counter", "n")) <= 5_000


async def test_callers_together_share_a_round_trip(server, counters, keys):
    """100 callers, each with its own value, in the order in which they came."""
    await counters.increment(keys, "n", 1, TTL)
    before = calls_of(server)

    values = await all_of(counters.increment(keys, "n", 2, TTL) for _ in range(100))

    assert values == [1 + 2 * at for at in range(1, 101)]
    assert calls_of(server) - before <= 3


async def test_callers_that_come_again_and_again_stay_together(server, counters, keys):
    """One round trip a round, not one for the first and one for the rest."""

    async def caller():
        return [await counters.increment(keys, "n", 1, TTL) for _ in range(20)]

    rows = await all_of(caller() for _ in range(50))

    assert sorted(value for row in rows for value in row) == list(range(1, 1_001))
    assert all(row == sorted(row) for row in rows)
    assert calls_of(server) <= 25


async def test_two_processes_get_distinct_values(server, context, keys):
    """Two writers side by side: no value twice, each one's increasing."""
    async with store(server.client_kwargs) as other:
        writers = Counters(context, "a"), Counters(other, "b")

        async def run(writer):
            return [await writer.increment(keys, "n", 1, TTL) for _ in range(200)]

        rows = await all_of(run(writer) for writer in writers)

    assert sorted(rows[0] + rows[1]) == list(range(1, 401))
    assert all(row == sorted(row) for row in rows)


async def test_counters_and_tenants_do_not_mix(context, counters, keys):
    """Another name, another tenant: another counter."""
    other = context.keys.tenant("acme.b")
    await all_of(
        [
            counters.increment(keys, "n", 1, TTL),
            counters.increment(keys, "m", 10, TTL),
            counters.increment(other, "n", 100, TTL),
        ]
    )

    assert await counters.read(keys, "n") == 1
    assert await counters.read(keys, "m") == 10
    assert await counters.read(other, "n") == 100


async def test_an_idle_counter_leaves_nothing_behind(context, counters, keys):
    """Neither after success nor after refusal."""
    await all_of(counters.increment(keys, f"n{at}", 1, TTL) for at in range(300))
    await all_of(counters.increment(keys, "n0", MAX, TTL) for _ in range(3))

    assert counters._tallies == {}
    assert counters.uncertain_count == 0


# --- limits -----------------------------------------------------------------------


@pytest.mark.parametrize("amount", [MAX + 1, MIN - 1, True, 1.0, "1", None])
async def test_an_amount_that_is_no_64_bit_integer_is_refused(
    server, counters, keys, amount
):
    """Before anything is sent."""
    with pytest.raises(DataError):
        await counters.increment(keys, "n", amount, TTL)

    assert server.execute("DBSIZE") == 0


@pytest.mark.parametrize("ttl_ms", [0, -1])
async def test_a_counter_that_does_not_expire_is_refused(counters, keys, ttl_ms):
    """Every key expires."""
    with pytest.raises(InvalidTtlError):
        await counters.increment(keys, "n", 1, ttl_ms)


async def test_the_ends_of_the_range_are_exact(counters, keys):
    """No rounding on the way."""
    assert await counters.increment(keys, "n", MAX, TTL) == MAX
    assert await counters.increment(keys, "n", -1, TTL) == MAX - 1
    assert await counters.increment(keys, "m", MIN, TTL) == MIN
    assert await counters.read(keys, "m") == MIN


async def test_an_overflow_changes_nothing(counters, keys):
    """DataError, and the counter stands."""
    await counters.increment(keys, "n", MAX - 1, TTL)

    with pytest.raises(DataError, match="64-bit"):
        await counters.increment(keys, "n", 2, TTL)

    assert await counters.increment(keys, "n", 1, TTL) == MAX


async def test_only_the_caller_that_overflows_is_refused(counters, keys):
    """Those who share its batch get their values."""
    await counters.increment(keys, "n", MAX - 100, TTL)
    amounts = [1] * 20 + [1_000] + [1] * 20

    results = await all_of(
        counters.increment(keys, "n", amount, TTL) for amount in amounts
    )

    assert isinstance(results.pop(20), DataError)
    assert sorted(results) == [MAX - 100 + at for at in range(1, 41)]
    assert counters._tallies == {}


async def test_large_amounts_of_both_signs_stay_within_range(counters, keys):
    """No caller is told a value that the counter cannot hold."""
    await counters.increment(keys, "n", 1, TTL)  # the rest shares a batch
    amounts = [MAX - 5, 10, MIN + 10, MAX - 10, -20]

    results = await all_of(
        counters.increment(keys, "n", amount, TTL) for amount in amounts
    )

    values = [value for value in results if isinstance(value, int)]
    assert all(MIN <= value <= MAX for value in values)
    applied = sum(
        amount
        for amount, value in zip(amounts, results, strict=True)
        if isinstance(value, int)
    )
    assert await counters.read(keys, "n") == 1 + applied


@pytest.mark.key_leaks(reason="foreign keys on purpose")
async def test_another_type_under_the_key_is_a_data_error(server, counters, keys):
    """For each of the callers, with an error of its own."""
    server.execute("SET", keys.key("counter", "n"), "text")

    errors = await all_of(counters.increment(keys, "n", 1, TTL) for _ in range(3))

    assert all(isinstance(error, DataError) for error in errors)
    assert len({id(error) for error in errors}) == 3
    with pytest.raises(DataError):
        await counters.read(keys, "n")


@pytest.mark.key_leaks(reason="foreign keys on purpose")
async def test_a_hash_that_is_no_counter_is_a_data_error(server, counters, keys):
    """It is neither counted nor changed."""
    server.execute("HSET", keys.key("counter", "n"), "v", "text")

    with pytest.raises(DataError, match="counter"):
        await counters.increment(keys, "n", 1, TTL)
    with pytest.raises(DataError, match="counter"):
        await counters.read(keys, "n")


async def test_two_writers_of_one_name_are_noticed(context, keys):
    """The second begins at 1 again, below what the first has used."""
    first, second = Counters(context, "same"), Counters(context, "same")
    for _ in range(3):
        await first.increment(keys, "n", 1, TTL)

    with pytest.raises(DataError, match="writer id"):
        await second.increment(keys, "n", 1, TTL)


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "é"])
async def test_a_writer_id_that_is_none_is_refused(context, name):
    """It is a field of the hash."""
    with pytest.raises(DataError):
        Counters(context, name)


async def test_a_forked_child_is_another_writer(
    server, context, counters, keys, monkeypatch
):
    """Its sequences begin where its parent's were: they must not be taken for those."""
    await counters.increment(keys, "n", 1, TTL)
    monkeypatch.setattr("os.getpid", lambda: 4242)

    assert await counters.increment(keys, "n", 1, TTL) == 2
    fields = server.execute("HKEYS", keys.key("counter", "n"))
    assert {b"w:writer", b"w:writer.4242"} <= set(fields)


# --- cancellation -----------------------------------------------------------------


async def started(server, counters, keys, amounts):
    """Start one increment per amount while the server sleeps; the first one sends."""
    async with asyncio.TaskGroup() as group:
        with server.paused():
            tasks = [
                group.create_task(counters.increment(keys, "n", amount, TTL))
                for amount in amounts
            ]
            await wait_until(
                lambda: (
                    len(counters._tallies) == 1
                    and len(next(iter(counters._tallies.values())).waiting)
                    == len(amounts) - 1
                ),
                "all but the first wait",
            )
            yield tasks


async def test_a_cancelled_caller_that_waits_adds_nothing(server, counters, keys):
    """Its amount was not sent; the others do not notice."""
    await counters.increment(keys, "warm", 1, TTL)
    async for tasks in started(server, counters, keys, [1, 10, 100]):
        tasks[1].cancel()
        await asyncio.sleep(0)

    assert [tasks[0].result(), tasks[2].result()] == [1, 101]
    assert tasks[1].cancelled()
    assert counters._tallies == {}


async def test_when_the_sender_is_cancelled_another_takes_over(server, counters, keys):
    """What it had sent stays added; those that waited get their values."""
    await counters.increment(keys, "warm", 1, TTL)
    async for tasks in started(server, counters, keys, [1, 10, 100]):
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[1].cancel()  # the heir, in its turn

    assert tasks[0].cancelled()
    assert tasks[1].cancelled()
    assert tasks[2].result() == 101  # the heir had only asked for what was sent
    assert await counters.read(keys, "n") == tasks[2].result()
    assert counters._tallies == {}


async def test_a_cancelled_sender_with_nobody_behind_it_is_resolved_by_the_next(
    server, counters, keys
):
    """The counter stays known as uncertain until then; the sum is exact."""
    await counters.increment(keys, "warm", 1, TTL)
    async for tasks in started(server, counters, keys, [1]):
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert counters.uncertain_count == 1

    assert await counters.increment(keys, "n", 10, TTL) == 11
    assert counters.uncertain_count == 0
    assert counters._tallies == {}


@pytest.mark.parametrize("turns", range(12))
async def test_cancelling_at_any_moment_keeps_the_sum_exact(counters, keys, turns):
    """Whoever was not cancelled has its value; the counter holds all that was sent."""
    done = 0

    async def caller():
        nonlocal done
        await counters.increment(keys, "n", 1, TTL)
        done += 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caller()) for _ in range(20)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()

    total = await counters.increment(keys, "n", 0, TTL)
    assert done <= total <= 20
    assert done >= 13
    assert counters._tallies == {}


# --- purge ------------------------------------------------------------------------


async def test_an_uncertain_increment_does_not_bring_a_purged_tenant_back(
    server, counters, keys
):
    """Asked for again after the purge, it is refused; the next one counts from 0."""
    await counters.increment(keys, "warm", 1, TTL)
    async for tasks in started(server, counters, keys, [5]):
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await wait_until(
        lambda: server.execute("EXISTS", keys.key("counter", "n")) == 1, "it landed"
    )
    server.execute("DEL", keys.key("counter", "n"))
    seconds, micros = server.execute("TIME")
    floor = int(seconds) * 1_000_000 + int(micros)
    server.execute("SET", keys.meta(MetaKey.FLOOR), floor)

    assert await counters.increment(keys, "n", 1, TTL) == 1


async def test_an_increment_after_a_purge_counts_though_its_clock_is_behind(
    server, counters, keys
):
    """Its caller is alive, so it comes after the purge."""
    await counters.increment(keys, "n", 5, TTL)
    server.execute("DEL", keys.key("counter", "n"))
    seconds, _ = server.execute("TIME")
    floor = (int(seconds) + 3) * 1_000_000
    server.execute("SET", keys.meta(MetaKey.FLOOR), floor)

    assert await counters.increment(keys, "n", 1, TTL) == 1
