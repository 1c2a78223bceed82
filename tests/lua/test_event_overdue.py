"""event_overdue.lua: what nobody can tell from a repetition is a dead letter, once."""

import pytest
import redis.asyncio

from mcp_crew_redis._core.scripts import ScriptLoader

DEAD, TALLY = b"p:event:{acme}:dead:-", b"p:event:{acme}:tally:-"
MARK, FLOOR = b"p:event:{acme}:mark:e1", b"p:meta:{acme}:floor"
KEYS = DEAD, TALLY, MARK, FLOOR
ADDED, DUPLICATE, PURGED = 1, 2, 0
DAY = 86_400_000

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def give_up(client):
    script = ScriptLoader().load("event_overdue")

    async def give_up(made_us=1_000):
        args = (b"p:events:{acme}:x:low", b"m", b"d", "too old", 60_000, made_us)
        script.check(KEYS, args)
        return await client.eval(script.source, len(KEYS), *KEYS, *args)

    return give_up


async def test_a_dead_letter_says_what_it_was_and_why(client, give_up):
    """With the fields of every dead letter; it and its count expire."""
    outcome, place = await give_up()

    (entry,) = await client.xrange(DEAD)
    assert (outcome, place) == (ADDED, entry[0])
    assert int(entry[1].pop(b"_t")) > 1_600_000_000_000
    assert entry[1] == {
        b"m": b"m",
        b"d": b"d",
        b"_s": b"p:events:{acme}:x:low",
        b"_i": b"",
        b"_n": b"0",
        b"_r": b"too old",
    }
    assert await client.hgetall(TALLY) == {b"dead": b"1"}
    assert 6 * DAY < await client.pttl(DEAD) <= 7 * DAY
    assert 29 * DAY < await client.pttl(TALLY) <= 30 * DAY


async def test_a_repetition_changes_nothing(client, give_up):
    """Its mark was made with it."""
    await give_up()

    assert await give_up() == [DUPLICATE, b"-"]

    assert await client.xlen(DEAD) == 1
    assert 0 < await client.pttl(MARK) <= 60_000


async def test_what_was_published_after_all_is_no_dead_letter(client, give_up):
    """The mark still knows where it stands."""
    await client.set(MARK, b"17-0", px=60_000)

    assert await give_up() == [DUPLICATE, b"17-0"]

    assert await client.exists(DEAD, TALLY) == 0


async def test_what_a_purge_has_removed_is_no_dead_letter(client, give_up):
    """Nothing of a purged tenant comes back."""
    await client.set(FLOOR, 1_000)

    assert await give_up(made_us=1_000) == [PURGED, b"1000"]

    assert await client.exists(DEAD, TALLY, MARK) == 0
