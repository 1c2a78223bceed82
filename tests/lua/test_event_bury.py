"""event_bury.lua: a dead letter and its acknowledgement are one step."""

import pytest
import redis.asyncio

from tests.lua.event_group import DAY, DEAD, GROUP, PARKED, STREAM, TALLY, Bench

pytestmark = pytest.mark.every_server


@pytest.fixture
async def bench(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield Bench(client)


@pytest.fixture
def bury(bench):
    async def bury(entry_id, *, consumer="me", count=3, reason="ValueError: no"):
        keys = (STREAM, DEAD, PARKED, TALLY)
        args = (GROUP, consumer, entry_id, count, reason)
        return await bench.run("event_bury", keys, *args)

    return bury


async def test_a_dead_letter_says_everything(bench, bury):
    """The entry as it was, and where, when, how often and why."""
    (entry_id,) = await bench.fill(1, reader="me")
    before = await bench.now()

    assert await bury(entry_id, reason="naïve — ✝") == 1

    (letter,) = await bench.letters()
    assert before <= int(letter.pop(b"_t")) <= await bench.now()
    assert letter == {
        b"m": b"m0",
        b"d": b"d0",
        b"_s": STREAM,
        b"_i": entry_id,
        b"_n": b"3",
        b"_r": "naïve — ✝".encode(),
    }
    assert await bench.pending() == {}
    assert await bench.tally() == {b"dead": 1}
    assert await bench.client.xlen(STREAM) == 1  # other groups may need it


async def test_the_others_stay_pending(bench, bury):
    """One entry is meant."""
    ids = await bench.fill(3, reader="me")
    await bury(ids[1])

    assert list(await bench.pending()) == [ids[0], ids[2]]


async def test_twice_is_once(bench, bury):
    """The second call finds it gone."""
    (entry_id,) = await bench.fill(1, reader="me")
    await bury(entry_id)

    assert await bury(entry_id) == 0
    assert len(await bench.letters()) == 1
    assert await bench.tally() == {b"dead": 1}


async def test_nobody_elses_entry_is_touched(bench, bury):
    """It was taken over: whoever has it decides."""
    (entry_id,) = await bench.fill(1, reader="other")

    assert await bury(entry_id) == 0
    assert list(await bench.pending()) == [entry_id]
    assert not await bench.client.exists(DEAD, TALLY)


async def test_what_was_trimmed_is_lost(bench, bury):
    """It leaves the group; there is nothing to make a letter of."""
    (entry_id,) = await bench.fill(1, reader="me")
    await bench.client.xdel(STREAM, entry_id)

    assert await bury(entry_id) == -1
    assert await bench.pending() == {}
    assert await bench.tally() == {b"lost": 1}
    assert not await bench.client.exists(DEAD)


async def test_what_is_buried_waits_no_more(bench, bury):
    """Nobody would find it pending."""
    ids = await bench.fill(2, reader="me")
    for entry_id in ids:
        await bench.park(entry_id, 60_000)
    await bury(ids[0])

    assert await bench.client.zrange(PARKED, 0, -1) == [bench.member(ids[1])]


async def test_without_stream_or_group_there_is_nothing_to_bury(bench, bury):
    """And neither is made."""
    assert await bury(b"1-0") == 0
    await bench.client.xadd(STREAM, {"d": "x"}, id="1-0")
    assert await bury(b"1-0") == 0
    assert not await bench.client.exists(DEAD, TALLY)


async def test_another_type_under_the_streams_key_is_nobodys(bench, bury):
    """And it stays as it is."""
    await bench.client.set(STREAM, "x")

    assert await bury(b"1-0") == 0


async def test_another_type_under_the_key_of_dead_letters_keeps_the_entry(bench, bury):
    """It would be lost without its letter."""
    (entry_id,) = await bench.fill(1, reader="me")
    await bench.client.set(DEAD, "x")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await bury(entry_id)
    assert list(await bench.pending()) == [entry_id]


async def test_books_expire(bench, bury):
    """Dead letters after a week, counts after 30 days."""
    (entry_id,) = await bench.fill(1, reader="me")
    await bury(entry_id)

    assert 7 * DAY - 60_000 < await bench.client.pttl(DEAD) <= 7 * DAY
    assert 30 * DAY - 60_000 < await bench.client.pttl(TALLY) <= 30 * DAY


async def test_a_foreign_entry_is_kept_as_it_was(bench, bury):
    """Whoever looks at it sees what it said."""
    await bench.client.xadd(STREAM, {"x": "1", "y": b"\xff\x00"})
    await bench.fill(0)
    ((_, [(entry_id, _)]),) = (
        (name, entries[0])
        for name, entries in (
            await bench.client.xreadgroup(GROUP, "me", {STREAM: ">"})
        ).items()
    )
    await bury(entry_id)

    (letter,) = await bench.letters()
    assert (letter[b"x"], letter[b"y"]) == (b"1", b"\xff\x00")


async def test_an_entry_of_very_many_fields_is_buried_too(bench, bury):
    """Of somebody else: it must not come back for ever."""
    entry_id = await bench.client.xadd(STREAM, {f"f{at}": at for at in range(10_000)})
    await bench.make()
    await bench.client.xreadgroup(GROUP, "me", {STREAM: ">"})

    assert await bury(entry_id) == 1
    (letter,) = await bench.letters()
    assert (letter[b"f0"], letter[b"_r"]) == (b"0", b"ValueError: no")


async def test_a_server_without_memory_buries(bench, exhaust, bury):
    """Or every call would wait for memory that only handling sets free."""
    (entry_id,) = await bench.fill(1, reader="me")
    exhaust()

    assert await bury(entry_id) == 1
    assert len(await bench.letters()) == 1
