"""shares_hold.lua: numbers are divided fairly, and a dead member's go over."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader

KEY = b"p:shares:janitor"
LEASE = 15_000

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def hold(client):
    script = ScriptLoader().load("shares_hold")
    turns = iter(range(1, 1_000_000))

    async def hold(member, *given_up, count=8, turn=None, leaving=0, lease=LEASE):
        args = (member, turn or next(turns), lease, count, leaving, *given_up)
        script.check((KEY,), args)
        members, owned, surplus = await client.eval(script.source, 1, KEY, *args)
        return {name.decode() for name in members}, owned, surplus

    return hold


async def age(client, member, by_ms):
    """Have a member's last beat lie further back."""
    beat, turn = (await client.hget(KEY, f"m:{member}")).split()
    await client.hset(KEY, f"m:{member}", b"%d %s" % (int(beat) - by_ms, turn))


async def test_the_first_member_takes_everything(hold):
    """Nobody else is there to do it."""
    assert await hold("a") == ({"a"}, list(range(8)), 0)


async def test_a_second_member_waits_until_numbers_are_given_up(hold):
    """The first is told how many are too many, and still owns them."""
    await hold("a")

    assert await hold("b") == ({"a", "b"}, [], 0)
    assert await hold("a") == ({"a", "b"}, list(range(8)), 4)

    assert await hold("a", 4, 5, 6, 7) == ({"a", "b"}, [0, 1, 2, 3], 0)
    assert await hold("b") == ({"a", "b"}, [4, 5, 6, 7], 0)


async def test_what_was_given_up_is_not_taken_back_at_once(hold):
    """Somebody else gets the chance; alone, it takes it with its next call."""
    await hold("a")

    assert (await hold("a", 3))[1] == [0, 1, 2, 4, 5, 6, 7]
    assert (await hold("a"))[1] == list(range(8))


async def test_nobody_gives_up_the_numbers_of_another(hold):
    """Only the owner may."""
    await hold("a")
    await hold("b", 1, 2, 3)

    assert (await hold("a"))[1] == list(range(8))


async def test_a_dead_members_numbers_are_free(client, hold):
    """A beat older than the lease is no beat."""
    await hold("a")
    await hold("b")
    await age(client, "a", LEASE + 1_000)

    assert await hold("b") == ({"b"}, list(range(8)), 0)


async def test_a_member_within_its_lease_keeps_its_numbers(client, hold):
    """A late beat is a beat."""
    await hold("a")
    await age(client, "a", LEASE - 5_000)

    assert await hold("b") == ({"a", "b"}, [], 0)


async def test_the_remainder_goes_to_those_who_have_it(hold):
    """8 among 3: 3, 3 and 2; once it is so, nothing moves."""
    await hold("a")
    await hold("b")
    await hold("c")
    await hold("a", 3, 4, 5, 6, 7)
    await hold("c")
    await hold("b")
    first = [await hold(member) for member in "abc"]

    assert sorted(len(owned) for _, owned, _ in first) == [2, 3, 3]
    assert [surplus for _, _, surplus in first] == [0, 0, 0]
    assert [await hold(member) for member in "abc"] == first


async def test_nobody_idles_while_another_has_two(hold):
    """4 among 3: 2, 1 and 1, not 2, 2 and none."""
    await hold("a", count=4)
    await hold("b", count=4)
    await hold("a", 2, 3, count=4)
    await hold("b", count=4)
    await hold("c", count=4)

    surplus = [(await hold(member, count=4))[2] for member in "ab"]

    assert sorted(surplus) == [0, 1]


async def test_membership_alone_owns_nothing(hold):
    """Count 0: who lives, and no more."""
    await hold("a", count=0)

    assert await hold("b", count=0) == ({"a", "b"}, [], 0)


async def test_leaving_frees_everything_at_once(hold):
    """No lease has to pass."""
    await hold("a")

    assert await hold("a", leaving=1) == (set(), [], 0)
    assert (await hold("b"))[1] == list(range(8))


async def test_the_last_one_to_leave_removes_the_key(client, hold):
    """Nothing stays behind."""
    await hold("a")
    await hold("a", leaving=1)

    assert not await client.exists(KEY)


async def test_a_call_that_was_overtaken_does_nothing(client, hold):
    """It may arrive from a connection that was given up long ago."""
    await hold("a", turn=500)
    before = await client.hgetall(KEY)

    with pytest.raises(ResponseError, match="overtaken"):
        await hold("a", 1, 2, turn=499)

    assert await client.hgetall(KEY) == before


async def test_the_same_call_twice_is_as_once(hold):
    """Its first answer may have been lost."""
    first = await hold("a", 3, turn=500)

    assert first == await hold("a", 3, turn=500)


async def test_the_key_lives_ten_leases(client, hold):
    """And expires where nobody is left."""
    await hold("a")

    assert LEASE * 10 - 5_000 < await client.pttl(KEY) <= LEASE * 10


async def test_numbers_beyond_the_count_are_let_go(hold):
    """Somebody has lowered it."""
    await hold("a", count=8)
    await hold("a", count=4)

    assert (await hold("a", count=4))[1] == [0, 1, 2, 3]


async def test_more_numbers_than_256_are_refused(client, hold):
    """Every loop has a bound."""
    with pytest.raises(ResponseError, match="256"):
        await hold("a", count=257)

    assert not await client.exists(KEY)


async def test_more_members_than_1000_are_refused(client, hold):
    """The newcomer is; a member renews as before."""
    seconds = int((await client.time())[0])
    beats = {f"m:x{number}": f"{seconds * 1_000} 1" for number in range(999)}
    await client.hset(KEY, mapping=beats)
    await hold("a")

    with pytest.raises(ResponseError, match="1000"):
        await hold("b")

    assert len((await hold("a"))[0]) == 1_000


async def test_foreign_fields_do_not_harm(client, hold):
    """Beats that nobody of ours wrote are of nobody who lives."""
    await client.hset(KEY, mapping={"m:x": "nonsense", "p:1": "x", "other": "1"})

    assert await hold("a") == ({"a"}, list(range(8)), 0)
