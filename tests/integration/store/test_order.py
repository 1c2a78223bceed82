"""Who writes last wins, whatever the clocks say; on every server."""

import asyncio

import pytest

from mcp_crew_redis import CrewRedis, DataType, DeleteOutcome
from mcp_crew_redis._wire.header import MAX_STAMP, seal, unseal
from mcp_crew_redis.errors import ConflictError

KEY = "mcp-crew:state:{acme}:k"
STATE = DataType.STATE


@pytest.fixture
async def other(settings):
    """A second process's crew, as far as the server can tell."""
    async with CrewRedis(settings) as crew:
        yield crew.tenant("acme")


def stamp_in(server):
    return unseal(server.execute("GET", KEY)).stamp


def ahead(crew, seconds):
    """Set a crew's clock ahead of the server's, until it is measured again."""
    stamps = crew._state.store.context.stamps
    stamps.hybrid._offset_us += round(seconds * 1e6)


@pytest.mark.every_server
@pytest.mark.parametrize("lead", [0.5, 3.0, 60.0])
async def test_a_live_write_passes_a_stamp_from_the_future(crew, acme, other, lead):
    """A clock ahead of ours does not make its value immortal."""
    await acme.set(STATE, "k", 0)
    ahead(crew, lead)
    await acme.set(STATE, "k", "ahead")

    await other.set(STATE, "k", "later")

    assert await acme.get(STATE, "k") == "later"


@pytest.mark.every_server
@pytest.mark.parametrize("operation", ["expire", "delete", "set_many", "delete_many"])
async def test_every_kind_of_write_passes_it(crew, acme, other, operation):
    """Expiries, deletes and batches are writes too."""
    await acme.set(STATE, "k", 0)
    ahead(crew, 60.0)
    await acme.set(STATE, "k", "ahead")

    if operation == "expire":
        assert await other.expire(STATE, "k", 50)
        assert 49 < await other.ttl(STATE, "k") <= 50
    elif operation == "delete":
        assert await other.delete(STATE, "k") is DeleteOutcome.DELETED
        assert not await acme.exists(STATE, "k")
    elif operation == "set_many":
        await other.set_many(STATE, {"j": 1, "k": 2, "l": 3})
        assert await acme.get_many(STATE, ["j", "k", "l"]) == {
            "j": 1,
            "k": 2,
            "l": 3,
        }
    else:
        assert await other.delete_many(STATE, ["j", "k"]) == 1
        assert not await acme.exists(STATE, "k")


async def test_a_write_after_a_read_is_newer_than_what_was_read(
    crew, acme, other, server
):
    """Without a refusal on the way: one round trip."""
    await acme.set(STATE, "k", 0)
    ahead(crew, 2.0)
    await acme.set(STATE, "k", 1)
    await other.get(STATE, "warm")
    await other.set(STATE, "warm", 1)
    assert await other.get(STATE, "k") == 1
    read = stamp_in(server)
    before = server.info("commandstats")["cmdstat_evalsha"]["calls"]

    await other.set(STATE, "k", 2)

    assert stamp_in(server) > read
    assert server.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1


async def test_what_is_read_before_the_first_measurement_counts_too(
    crew, acme, other, server
):
    """The first write of a process is newer than all it has read."""
    await acme.set(STATE, "k", 0)
    ahead(crew, 2.0)
    await acme.set(STATE, "k", 1)
    await other.get(STATE, "k")

    await other.set(STATE, "elsewhere", 1)

    assert (await other.get_entry(STATE, "elsewhere")).stamp > stamp_in(server)


async def test_a_stamp_far_ahead_does_not_infect_the_clock(crew, acme, other, server):
    """One wrong clock would else push everybody's into the future."""
    await acme.set(STATE, "k", 0)
    ahead(crew, 3_600.0)
    await acme.set(STATE, "k", 1)
    await other.set(STATE, "k", 2)

    entry_stamp = stamp_in(server)
    await other.set(STATE, "elsewhere", 1)

    assert (await other.get_entry(STATE, "elsewhere")).stamp < entry_stamp - 3.5e9


async def test_the_end_of_all_stamps_is_a_conflict(acme, server):
    """Nothing can be newer than the last stamp: somebody wrote nonsense."""
    server.execute("SET", KEY, seal(MAX_STAMP, b"\x01"), "PX", 60_000)

    with pytest.raises(ConflictError):
        await acme.set(STATE, "k", 1)
    with pytest.raises(ConflictError):
        await acme.delete(STATE, "k")
    with pytest.raises(ConflictError):
        await acme.set_many(STATE, {"k": 1})


async def test_an_equal_stamp_with_other_bytes_is_written_again(acme, server):
    """Two writers, one microsecond: the one that is alive takes another."""
    await acme.set(STATE, "warm", 1)
    stamps = acme._store.context.stamps
    stamp = stamps.hybrid.last + 1_000_000
    server.execute("SET", KEY, seal(stamp, b"\x05"), "PX", 60_000)
    stamps.hybrid._last = stamp - 1

    await acme.set(STATE, "k", 6)

    assert await acme.get(STATE, "k") == 6
    assert stamp_in(server) > stamp


async def test_a_busy_writer_with_a_fast_clock_keeps_nobody_out(crew, acme, other):
    """Thirty writers a millisecond ahead, on one key, and one behind them all."""
    await acme.set(STATE, "k", 0)
    await other.set(STATE, "k", 0)
    is_over = False

    async def hammer():
        while not is_over:
            ahead(crew, 0.000_05)
            await acme.set(STATE, "k", "ahead")

    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(hammer())
        try:
            for n in range(100):
                await other.set(STATE, "k", n)
        finally:
            is_over = True


async def test_a_refused_write_of_a_batch_leaves_the_others_alone(
    crew, acme, other, server
):
    """Only what was refused is sent again."""
    await acme.set(STATE, "k", 0)
    ahead(crew, 60.0)
    await acme.set(STATE, "k", "ahead")
    await other.set_many(STATE, {"j": 1})
    before = server.info("commandstats")["cmdstat_set"]["calls"]

    await other.set_many(STATE, {"j": 2, "k": 2, "l": 2})

    assert server.info("commandstats")["cmdstat_set"]["calls"] == before + 3
