"""event_claim.lua: what lies about is taken over, what is poisonous is buried."""

from typing import NamedTuple

import pytest
import redis.asyncio

from tests.lua.event_group import DAY, DEAD, GROUP, PARKED, STREAM, TALLY, Bench
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.every_server


class Claimed(NamedTuple):
    following: bytes
    entries: list
    dead: int
    lost: int

    @property
    def ids(self):
        return [entry[0] for entry in self.entries]


@pytest.fixture
async def bench(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield Bench(client)


@pytest.fixture
def claim(bench):
    async def claim(
        *, who="new", owner="", idle=0, start="-", count=64, most=5, suspect_from=9
    ):
        args = (GROUP, who, owner, idle, start, count, most, suspect_from)
        keys = (STREAM, DEAD, PARKED, TALLY)
        return Claimed(*await bench.run("event_claim", keys, *args))

    return claim


async def test_what_lies_about_is_taken_over(bench, claim):
    """With its fields, and counted as delivered once more."""
    ids = await bench.fill(2, reader="old")

    claimed = await claim()

    assert claimed == (
        b"",
        [
            [ids[0], [b"m", b"m0", b"d", b"d0"], 2, 0],
            [ids[1], [b"m", b"m1", b"d", b"d1"], 2, 0],
        ],
        0,
        0,
    )
    assert {one.consumer for one in (await bench.pending()).values()} == {b"new"}
    assert {one.count for one in (await bench.pending()).values()} == {2}
    assert await bench.tally() == {b"redelivered": 2}


async def test_what_was_touched_lately_is_left_alone(bench, claim):
    """Somebody works on it."""
    await bench.fill(2, reader="old")

    assert await claim(idle=60_000) == (b"", [], 0, 0)
    assert {one.consumer for one in (await bench.pending()).values()} == {b"old"}


async def test_what_was_taken_over_is_young_again(bench, claim):
    """Its time begins anew: nobody takes it from the new one at once."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.client.xclaim(STREAM, GROUP, "old", 0, [entry_id], idle=60_000)

    assert (await claim(idle=60_000)).ids == [entry_id]
    assert (await claim(idle=60_000)).ids == []


async def test_only_the_entries_of_the_owner_that_is_named(bench, claim):
    """The others' are left alone."""
    await bench.fill(2, reader="a")
    theirs = await bench.fill(2, reader="b")

    assert (await claim(owner="b")).ids == theirs


async def test_what_is_ours_already_is_not_taken_over(bench, claim):
    """It is in our hands; but what we have let lie is."""
    mine = await bench.fill(2, reader="new")
    theirs = await bench.fill(2, reader="old")
    assert (await claim()).ids == theirs
    await bench.client.xclaim(STREAM, GROUP, "new", 0, mine, idle=60_000)

    assert (await claim(idle=50_000)).ids == mine


async def test_one_page_after_the_other(bench, claim):
    """Where to go on is told; empty at the end."""
    ids = await bench.fill(5, reader="old")

    first = await claim(count=2)
    second = await claim(count=2, start=first.following)
    third = await claim(count=2, start=second.following)

    assert [first.ids, second.ids, third.ids] == [ids[:2], ids[2:4], ids[4:]]
    assert (first.following, third.following) == (b"(" + ids[1], b"")


async def test_a_page_that_ends_exactly_has_an_empty_one_after_it(bench, claim):
    """Nothing is looked at twice."""
    ids = await bench.fill(2, reader="old")
    first = await claim(count=2)

    assert first.following == b"(" + ids[1]
    assert await claim(count=2, start=first.following) == (b"", [], 0, 0)


async def test_a_repeated_delivery_is_not_counted(bench, claim):
    """Nobody saw the first one."""
    (entry_id,) = await bench.fill(1, reader="new")

    claimed = await claim(owner="new", suspect_from=0)

    assert claimed.entries[0][2] == 1
    assert (await bench.pending())[entry_id].count == 1
    assert await bench.tally() == {}


async def test_a_repeated_delivery_is_never_buried(bench, claim):
    """It has not been tried so often."""
    (entry_id,) = await bench.fill(1, reader="new")

    claimed = await claim(owner="new", suspect_from=0, most=1)

    assert claimed.ids == [entry_id]
    assert await bench.letters() == []


async def test_what_was_delivered_too_often_is_a_dead_letter(bench, claim):
    """With its fields, and where, when, how often and why."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.deliver("old", entry_id, times=2)
    before = await bench.now()

    assert await claim(most=3) == (b"", [], 1, 0)

    (letter,) = await bench.letters()
    assert before <= int(letter.pop(b"_t")) <= await bench.now()
    assert letter == {
        b"m": b"m0",
        b"d": b"d0",
        b"_s": STREAM,
        b"_i": entry_id,
        b"_n": b"3",
        b"_r": b"max_deliveries",
    }
    assert await bench.pending() == {}
    assert await bench.tally() == {b"dead": 1}


async def test_the_last_delivery_is_still_one(bench, claim):
    """`max_deliveries` are made, not one fewer."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.deliver("old", entry_id)

    assert (await claim(most=3)).entries[0][2] == 3
    assert (await claim(most=3, who="next"))[1:] == ([], 1, 0)


async def test_books_expire(bench, claim):
    """Dead letters after a week, counts after 30 days."""
    await bench.fill(1, reader="old")
    await claim(most=1)

    assert 7 * DAY - 60_000 < await bench.client.pttl(DEAD) <= 7 * DAY
    assert 30 * DAY - 60_000 < await bench.client.pttl(TALLY) <= 30 * DAY


async def test_what_was_trimmed_is_lost_and_leaves_the_group(bench, claim):
    """Counted once."""
    await bench.fill(3, reader="old")
    await bench.client.xtrim(STREAM, maxlen=1, approximate=False)

    claimed = await claim()

    assert (len(claimed.entries), claimed.dead, claimed.lost) == (1, 0, 2)
    assert len(await bench.pending()) == 1
    assert await bench.tally() == {b"lost": 2, b"redelivered": 1}
    assert (await claim()).lost == 0


async def test_what_was_trimmed_and_poisonous_is_lost(bench, claim):
    """There is nothing to make a letter of."""
    await bench.fill(2, reader="old")
    await bench.client.xtrim(STREAM, maxlen=0, approximate=False)

    assert await claim(most=1) == (b"", [], 0, 2)
    assert await bench.pending() == {}
    assert await bench.letters() == []


async def test_what_waits_for_its_next_attempt_is_left_alone(bench, claim):
    """However long it has not been touched, however often it was delivered."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.park(entry_id, 60_000)

    assert await claim(most=1) == (b"", [], 0, 0)
    assert (await bench.pending())[entry_id].consumer == b"old"
    assert await bench.client.zcard(PARKED) == 1


async def test_what_is_due_is_taken_over_and_waits_no_more(bench, claim):
    """Nobody else gets it by the set."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.park(entry_id, -1)

    assert (await claim()).ids == [entry_id]
    assert await bench.client.zcard(PARKED) == 0


async def test_what_is_due_and_poisonous_waits_no_more(bench, claim):
    """Buried, and out of the set."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.park(entry_id, -1)

    assert (await claim(most=1)).dead == 1
    assert await bench.client.zcard(PARKED) == 0


async def test_of_a_missing_stream_or_group_there_is_nothing(bench, claim):
    """And neither is made."""
    assert await claim() == (b"", [], 0, 0)
    assert not await bench.client.exists(STREAM)
    await bench.client.xadd(STREAM, {"d": "x"})
    assert await claim() == (b"", [], 0, 0)
    assert await bench.client.xinfo_groups(STREAM) == []


async def test_another_type_under_the_key_is_an_error(bench, claim):
    """And nothing is changed."""
    await bench.client.set(STREAM, "x")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await claim()
    assert await bench.client.get(STREAM) == b"x"


async def test_another_groups_entries_are_left_alone(bench, claim):
    """Each has its own."""
    await bench.fill(1, reader="old", group="other")
    await bench.make()

    assert await claim() == (b"", [], 0, 0)
    assert (await bench.client.xpending(STREAM, "other"))["pending"] == 1


async def test_a_server_without_memory_gives_what_lies_about(bench, exhaust, claim):
    """Draining is what it needs; poison does not stand in the way."""
    poison, entry_id = await bench.fill(2, reader="old")
    await bench.deliver("old", poison, times=3)
    exhaust()

    claimed = await claim(most=4)

    assert (claimed.ids, claimed.dead) == ([entry_id], 1)
    assert await bench.tally() == {b"dead": 1, b"redelivered": 1}


async def test_an_entry_of_very_many_fields_is_buried_too(bench, claim):
    """Of somebody else: it must not be in the way of the others for ever."""
    await bench.client.xadd(STREAM, {f"f{at}": at for at in range(10_000)})
    await bench.fill(1)
    await bench.client.xreadgroup(GROUP, "old", {STREAM: ">"})

    assert (await claim(most=1)).dead == 2
    assert await bench.pending() == {}
    assert [letter[b"_r"] for letter in await bench.letters()] == [
        b"max_deliveries"
    ] * 2


async def test_min_idle_counts_from_the_last_touch(bench, claim):
    """In milliseconds of the server."""
    (entry_id,) = await bench.fill(1, reader="old")

    async def taken():
        return (await claim(idle=30)).ids == [entry_id]

    await wait_until(taken, "it is old enough")


async def test_a_suspect_is_counted_when_its_handler_begins(bench, claim):
    """Who dies of one entry must not use up the attempts of those beside it."""
    (entry_id,) = await bench.fill(1, reader="old")

    first = await claim(suspect_from=2)
    second = await claim(suspect_from=2, who="next")

    assert [entry[2:] for entry in first.entries] == [[2, 0]]
    assert [entry[2:] for entry in second.entries] == [[2, 1]]
    assert (await bench.pending())[entry_id].count == 2


async def test_what_is_in_our_own_hands_is_left_alone(bench, claim):
    """A partition that comes back must not count, or bury, what is handled here."""
    await bench.fill(2, reader="new")

    assert await claim(most=1) == (b"", [], 0, 0)
