"""event_trim.lua: nothing goes before its groups let go of it, but what is too old.

Ages are given to entries by their ids; the cutoffs are the server's time.
"""

import asyncio
from typing import NamedTuple

import pytest
import redis.asyncio

from mcp_crew_redis._core.scripts import ScriptLoader

STREAM, TALLIES = b"p:events:{acme}:order.paid:normal", b"p:event:{acme}:tally:"
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
SOFT, HARD = DAY, 4 * DAY

pytestmark = pytest.mark.every_server


class Outcome(NamedTuple):
    trimmed: int
    lost: dict
    held_back: int
    next_ms: int
    is_more: int
    stale: list


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def trim(client):
    script = ScriptLoader().load("event_trim")

    async def trim(*, soft=SOFT, hard=HARD, limit=10_000, idle=HOUR, stale=7, sweep=0):
        args = (soft, hard, limit, idle, stale * DAY, sweep)
        script.check((STREAM, TALLIES), args)
        reply = await client.eval(script.source, 2, STREAM, TALLIES, *args)
        lost = dict(zip(reply[1][::2], reply[1][1::2], strict=True))
        return Outcome(reply[0], lost, *reply[2:])

    return trim


@pytest.fixture
def fill(client):
    """Add entries of these ages in hours, oldest first; return their ids."""

    async def fill(*hours, field="d", value="x"):
        seconds, _ = await client.time()
        ids = []
        for age in hours:
            at = seconds * 1_000 - round(age * HOUR)
            ids.append(await client.xadd(STREAM, {field: value}, id=f"{at}-*"))
        return ids

    return fill


async def group(client, name="g", *, read=0, ack=0):
    """Make a group that has read so many and acknowledged some of those."""
    await client.xgroup_create(STREAM, name, id="0")
    ids = []
    if read:
        (entries,) = (
            await client.xreadgroup(name, "c", {STREAM: ">"}, count=read)
        ).values()
        ids = [entry[0] for entry in entries[0]]
    if ack:
        await client.xack(STREAM, name, *ids[:ack])
    return ids


async def test_without_groups_the_soft_limit_counts(client, trim, fill):
    """Nobody waits for it."""
    await fill(30, 25, 23, 1)

    outcome = await trim()

    assert (outcome.trimmed, outcome.lost, outcome.held_back) == (2, {}, 0)
    assert HOUR - MINUTE < outcome.next_ms <= HOUR
    assert await client.xlen(STREAM) == 2


async def test_what_is_acknowledged_by_all_goes_after_the_soft_limit(
    client, trim, fill
):
    """And what is younger stays, acknowledged or not."""
    await fill(30, 29, 28, 2)
    await group(client, "one", read=4, ack=4)
    await group(client, "two", read=4, ack=4)

    assert (await trim())[:3] == (3, {}, 0)


async def test_the_slowest_group_holds_back(client, trim, fill):
    """What it has not read stays; the next look is worth it at the hard limit."""
    await fill(30, 29, 28)
    await group(client, "fast", read=3, ack=3)
    await group(client, "slow", read=1, ack=1)

    outcome = await trim()

    assert outcome[:3] == (1, {}, 1)
    assert abs(outcome.next_ms - (96 - 29) * HOUR) < MINUTE


async def test_what_is_pending_holds_back(client, trim, fill):
    """Read is not handled."""
    await fill(30, 29, 28)
    ids = await group(client, read=3, ack=1)

    outcome = await trim()

    assert outcome[:3] == (1, {}, 1)
    assert (await client.xrange(STREAM))[0][0] == ids[1]


async def test_a_group_that_has_read_nothing_holds_everything(client, trim, fill):
    """It may have been made a moment ago."""
    await fill(30, 29)
    await group(client)

    assert (await trim())[:3] == (0, {}, 1)


async def test_past_the_hard_limit_what_was_never_delivered_is_lost(client, trim, fill):
    """Exactly counted, for each group its own."""
    await fill(100, 99, 98, 97, 2)
    await group(client, "none")
    await group(client, "two", read=2, ack=2)
    await group(client, "all", read=5, ack=5)

    outcome = await trim()

    assert outcome.trimmed == 4
    assert outcome.lost == {b"none": 4, b"two": 2}
    assert await client.hget(TALLIES + b"none", "lost") == b"4"
    assert await client.hget(TALLIES + b"two", "lost") == b"2"
    assert not await client.exists(TALLIES + b"all")


async def test_past_the_hard_limit_what_is_pending_is_lost(client, trim, fill):
    """Counted, and acknowledged: nobody will count it again."""
    await fill(100, 99, 98, 2)
    await group(client, read=4, ack=1)

    outcome = await trim()

    assert (outcome.trimmed, outcome.lost) == (3, {b"g": 2})
    assert (await client.xpending(STREAM, "g"))["pending"] == 1


async def test_pending_and_undelivered_are_added(client, trim, fill):
    """One group may have both."""
    await fill(100, 99, 98, 97)
    await group(client, read=2, ack=1)

    assert (await trim()).lost == {b"g": 3}


async def test_twice_counts_once(client, trim, fill):
    """The second finds nothing."""
    await fill(100, 99)
    await group(client, read=1)
    await trim()

    assert (await trim())[:2] == (0, {})
    assert await client.hget(TALLIES + b"g", "lost") == b"2"


async def test_pending_entries_without_a_body_are_counted_after_the_hard_limit(
    client, trim, fill
):
    """Somebody else has trimmed; their consumer has not noticed."""
    await fill(100, 99, 1)
    await group(client, read=3)
    await client.xtrim(STREAM, maxlen=1, approximate=False)

    assert (await trim()).lost == {b"g": 2}


async def test_fewer_than_a_node_of_entries_are_trimmed_too(client, trim, fill):
    """XTRIM with ~ alone would leave them."""
    await fill(*[30] * 99)

    assert (await trim()).trimmed == 99


async def test_the_work_of_one_call_is_bounded(client, trim, fill):
    """About twice the limit; repeating it comes to the end, and counts everything."""
    await fill(*[100] * 1_000)
    await group(client)
    trimmed, lost, calls, is_more = 0, 0, 0, 1
    while is_more:
        outcome = await trim(limit=200)
        assert outcome.trimmed <= 500
        is_more, calls = outcome.is_more, calls + 1
        trimmed += outcome.trimmed
        lost += outcome.lost.get(b"g", 0)

    assert (trimmed, lost) == (1_000, 1_000)
    assert calls >= 2


async def test_many_groups_in_different_places_do_not_add_up(client, trim, fill):
    """The bound is one of the call, not of each group; the sums are exact."""
    ids = await fill(*[100] * 1_000)
    for number in range(10):
        await client.xgroup_create(STREAM, f"g{number}", id=ids[number * 100])
    lost, is_more = dict.fromkeys((b"g%d" % number for number in range(10)), 0), 1
    while is_more:
        outcome = await trim(limit=100)
        assert outcome.trimmed <= 400
        is_more = outcome.is_more
        for name, count in outcome.lost.items():
            lost[name] += count

    assert [*lost.values()] == [999 - number * 100 for number in range(10)]


async def test_the_pending_of_one_call_are_bounded(client, trim, fill):
    """Pages of 1,000."""
    await fill(*[100] * 2_500, 1)
    await group(client, read=2_500)
    lost, is_more = 0, 1
    while is_more:
        outcome = await trim(limit=1_000)
        is_more = outcome.is_more
        lost += outcome.lost.get(b"g", 0)

    assert lost == 2_500
    assert (await client.xpending(STREAM, "g"))["pending"] == 0


async def test_large_bodies_are_counted_as_exactly(client, trim, fill):
    """Nodes hold fewer of them."""
    await fill(*[100] * 30, value="x" * 3_000)
    await group(client, "none")
    await group(client, "some", read=17, ack=17)

    outcome = await trim()

    assert outcome.lost == {b"none": 30, b"some": 13}


async def test_a_missing_stream_is_told(trim):
    """Nothing to come back for."""
    assert await trim() == (0, {}, 0, -1, 0, [])


async def test_an_empty_stream_goes_once_it_is_old(client, trim, fill):
    """Nobody has read it; whoever writes makes it anew."""
    await fill(30)

    assert (await trim()).next_ms == -1
    assert not await client.exists(STREAM)


async def test_an_empty_stream_with_a_group_stays(client, trim, fill):
    """A group that was made anew would not know where it had been."""
    await fill(30)
    await group(client, read=1, ack=1)

    assert (await trim()).next_ms == HOUR
    assert await client.exists(STREAM)


async def test_an_empty_stream_stays_for_an_hour(client, trim, fill):
    """Who has written lately will write again."""
    await fill(0.5)

    outcome = await trim(soft=MINUTE, hard=MINUTE)

    assert outcome.trimmed == 1
    assert HOUR / 2 - MINUTE < outcome.next_ms <= HOUR / 2
    assert await client.exists(STREAM)


async def test_an_empty_stream_with_something_pending_stays(client, trim, fill):
    """Whoever has it will see that it is gone, and count it."""
    ids = await fill(2)
    await group(client, read=1)
    await client.xdel(STREAM, *ids)

    assert (await trim()).next_ms >= 1_000
    assert await client.exists(STREAM)


async def test_idle_consumers_go_when_they_hold_nothing(client, trim, fill):
    """Those that hold something stay, however long they are gone."""
    await fill(1, 1)
    await group(client, read=1)
    await client.xgroup_createconsumer(STREAM, "g", "idle")
    await asyncio.sleep(0.002)  # idle counts in whole milliseconds

    await trim(idle=0, sweep=1)

    names = [info["name"] for info in await client.xinfo_consumers(STREAM, "g")]
    assert names == [b"c"]


async def test_consumers_that_were_there_lately_stay(client, trim, fill):
    """Idle for less than the time given."""
    await fill(1)
    await group(client, read=1, ack=1)

    await trim(sweep=1)

    assert len(await client.xinfo_consumers(STREAM, "g")) == 1


async def test_without_sweep_consumers_are_let_be(client, trim, fill):
    """It is asked for once in a while."""
    await fill(1)
    await group(client, read=1, ack=1)
    await asyncio.sleep(0.002)

    await trim(idle=0)

    assert len(await client.xinfo_consumers(STREAM, "g")) == 1


async def test_a_stale_group_is_named_once(client, trim, fill):
    """Its consumers are gone for so long, and it holds back."""
    await fill(30)
    await group(client, read=1)
    await asyncio.sleep(0.002)

    assert (await trim(stale=0)).stale == [b"g"]
    assert (await trim(stale=0)).stale == []


async def test_a_group_without_consumers_is_stale_after_a_while(client, trim, fill):
    """From when that was first seen."""
    await fill(30)
    await group(client)

    assert (await trim()).stale == []
    field = b"stale:" + STREAM
    since, told = (await client.hget(TALLIES + b"g", field)).split()
    assert told == b"0"
    eight_days_ago = b"%d 0" % (int(since) - 8 * DAY)
    await client.hset(TALLIES + b"g", field, eight_days_ago)
    assert (await trim()).stale == [b"g"]


async def test_a_group_that_holds_nothing_back_is_not_stale(client, trim, fill):
    """However long nobody has been there; what was noted is forgotten."""
    await fill(30)
    await group(client)
    await trim()
    await client.xgroup_setid(STREAM, "g", "$")

    assert (await trim(stale=0)).stale == []
    assert not await client.hexists(TALLIES + b"g", b"stale:" + STREAM)


async def test_groups_with_foreign_names_get_no_tally(client, trim, fill):
    """Their loss is told all the same."""
    await fill(100)
    await group(client, "a b:{c}")

    assert (await trim()).lost == {b"a b:{c}": 1}
    assert await client.keys("p:event:*") == []


async def test_a_tally_lives_for_30_days(client, trim, fill):
    """From each count."""
    await fill(100)
    await group(client)
    await trim()

    assert 29 * DAY < await client.pttl(TALLIES + b"g") <= 30 * DAY


async def test_a_server_without_memory_is_trimmed(client, exhaust, trim, fill):
    """That is what it needs; losses are counted."""
    await fill(100, 99, 30)
    await group(client, "slow")
    exhaust()

    outcome = await trim()

    assert (outcome.trimmed, outcome.lost) == (2, {b"slow": 2})
    assert await client.hget(TALLIES + b"slow", "lost") == b"2"


async def test_a_server_without_memory_still_says_what_is_held_back(
    client, exhaust, trim, fill
):
    """The note about the group has to wait."""
    await fill(30)
    await group(client)
    exhaust()

    assert (await trim())[:3] == (0, {}, 1)


async def test_another_type_under_the_key_is_left_alone(client, trim):
    """An error, and nothing changed."""
    await client.set(STREAM, "x")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await trim()

    assert await client.get(STREAM) == b"x"


async def test_entries_of_one_millisecond_are_told_apart(client, trim):
    """A group in the middle of them loses what comes after its place."""
    seconds, _ = await client.time()
    at = seconds * 1_000 - 100 * HOUR
    for number in range(1, 5):
        await client.xadd(STREAM, {"d": "x"}, id=f"{at}-{number}")
    await group(client, read=2, ack=2)

    assert (await trim()).lost == {b"g": 2}
