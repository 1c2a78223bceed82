"""Dead letters: seen, given back, thrown away, each by its owner alone."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from mcp_crew_redis import DataError
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.envelope import pack_envelope
from mcp_crew_redis.errors import InvalidIdentifierError, UnavailableError
from mcp_crew_redis.events.making import make_envelope
from mcp_crew_redis.events.outcomes import Reject
from tests.integration.events.consuming import (
    Record,
    consuming,
    crew_on,
    dead_key,
    one_handler,
    stream,
)
from tests.rig.waiting import wait_until


@pytest.fixture
async def events(server):
    async with crew_on(server) as crew:
        yield crew.tenant("acme").events


@pytest.fixture
def bury(server):
    """Have dead letters as the consumer's scripts write them; return their ids."""

    def bury(count=1, *, tenant="acme", came_from=None, fields=None, reason="why"):
        key, ids = dead_key(tenant), []
        for number in range(count):
            envelope = pack_envelope(make_envelope(event_id=f"e{number}"))
            parts = fields or (b"m", envelope, b"d", MsgpackCodec().encode(number))
            about = {"_s": came_from or stream(tenant), "_i": "7-0", "_n": 5}
            about |= {"_r": reason, "_t": 1_763_000_000_123}
            flat = [part for pair in about.items() for part in pair]
            ids.append(server.execute("XADD", key, "*", *parts, *flat).decode())
        server.execute("PEXPIRE", key, 60_000)
        return ids

    return bury


async def test_a_letter_tells_everything(events, bury):
    """The event as it was, why, when, after how many attempts, and from where."""
    (place,) = bury()

    (letter,) = await events.dead_letters("g").list()

    assert letter.id == place
    assert (letter.reason, letter.attempts) == ("why", 5)
    assert letter.failed_at == datetime.fromtimestamp(1_763_000_000.123, UTC)
    assert (letter.event_type, letter.stream_id) == ("order.paid", "7-0")
    event = letter.event
    assert (event.id, event.payload, event.tenant_id) == ("e0", 0, "acme")
    assert (event.delivery_count, event.stream_id) == (5, "7-0")
    assert set(letter.raw) == {b"m", b"d"}


async def test_its_text_shows_no_payload(events, bury):
    """It may be logged."""
    bury(fields=(b"m", b"x", b"d", b"secret"))

    assert "secret" not in repr(await events.dead_letters("g").list())


async def test_one_that_is_no_event_keeps_its_bytes(events, bury):
    """There is something to look at."""
    bury(fields=(b"x", b"\xff"), reason="foreign entry")

    (letter,) = await events.dead_letters("g").list()

    assert letter.event is None
    assert letter.raw == {b"x": b"\xff"}
    assert letter.reason == "foreign entry"


async def test_nonsense_beside_the_entry_is_read_as_nothing(events, server):
    """Whoever has written it."""
    server.execute("XADD", dead_key(), "*", "_s", "\xff", "_n", "x", "_t", "-1")
    server.execute("PEXPIRE", dead_key(), 60_000)

    (letter,) = await events.dead_letters("g").list()

    assert (letter.event, letter.event_type, letter.attempts) == (None, "", 0)
    assert letter.failed_at == datetime.fromtimestamp(0, UTC)


async def test_a_letter_of_anothers_stream_is_no_event(events, bury):
    """Nobody of ours wrote that; its payload is not theirs to see as an event."""
    bury(came_from=stream("globex"))

    (letter,) = await events.dead_letters("g").list()

    assert letter.event is None


async def test_they_are_listed_page_by_page(events, bury):
    """The oldest first; `after` goes on."""
    ids = bury(250)
    letters = events.dead_letters("g")

    first = await letters.list(limit=120)
    rest = await letters.list(limit=1_000, after=first[-1].id)

    assert [letter.id for letter in first + rest] == ids


async def test_no_letters_are_no_error(events):
    """Most groups have none."""
    letters = events.dead_letters("g")

    assert await letters.list() == []
    assert await letters.replay() == 0
    assert await letters.purge() == 0


async def test_all_of_them_are_given_back(events, bury, server):
    """In order, to the stream they came from."""
    bury(230)

    assert await events.dead_letters("g").replay() == 230

    assert server.execute("XLEN", stream()) == 230
    assert server.execute("XLEN", dead_key()) == 0


async def test_some_of_them_are_given_back(events, bury, server):
    """The others stay."""
    first, second, third = bury(3)

    assert await events.dead_letters("g").replay([first, third]) == 2

    left = await events.dead_letters("g").list()
    assert [letter.id for letter in left] == [second]


async def test_what_is_no_event_is_not_given_back(events, bury, server):
    """It would only die again."""
    bury(fields=(b"x", b"1"))
    bury()

    assert await events.dead_letters("g").replay() == 1
    assert server.execute("XLEN", dead_key()) == 1


async def test_what_dies_again_is_not_given_back_twice(server):
    """One call gives back what there was when it began."""
    record = Record()

    async def reject(event):
        await record.handle(event)
        raise Reject("never")

    async with consuming(server, one_handler(reject)) as (crew, _):
        events = crew.tenant("acme").events
        letters = events.dead_letters("g")
        for number in range(5):
            await events.publish("order.paid", number)
        await wait_until(lambda: server.execute("XLEN", dead_key()) == 5, "all died")

        assert await letters.replay() == 5
        await wait_until(lambda: server.execute("XLEN", dead_key()) == 5, "again")

        assert len(record) == 10
        assert len({event.id for event in record.events}) == 5


async def test_a_repaired_handler_handles_what_had_died(server):
    """What all of this is for."""
    record, is_broken = Record(), True

    async def handle(event):
        if is_broken:
            raise Reject("no database")
        await record.handle(event)

    async with consuming(server, one_handler(handle)) as (crew, _):
        events = crew.tenant("acme").events
        letters = events.dead_letters("g")
        receipt = await events.publish("order.paid", 7)
        await wait_until(lambda: server.execute("XLEN", dead_key()) == 1, "it died")
        (letter,) = await letters.list()
        assert (letter.reason, letter.event.id) == ("no database", receipt.event_id)

        is_broken = False
        await letters.replay()

        await record.until(1)
        assert record.events[0].id == receipt.event_id


async def test_they_are_thrown_away(events, bury, server):
    """Some or all."""
    first, *_ = bury(5)
    letters = events.dead_letters("g")

    assert await letters.purge([first]) == 1
    assert await letters.purge([first]) == 0
    assert await letters.purge() == 4
    assert await letters.list() == []


async def test_two_tenants_never_see_each_others(server, bury):
    """Under the same group."""
    bury(2, tenant="acme")
    bury(1, tenant="globex")
    async with crew_on(server) as crew:
        globex = crew.tenant("globex").events.dead_letters("g")

        assert len(await globex.list()) == 1
        assert await globex.replay() == 1

    assert server.execute("XLEN", stream("globex")) == 1
    assert server.execute("XLEN", dead_key()) == 2


async def test_the_journals_letters_can_be_read(events):
    """They are of no group."""
    assert await events.dead_letters("-").list() == []


@pytest.mark.parametrize("group", ["", "a b", "-x", "{x}"])
async def test_a_group_that_is_none_is_refused(events, group):
    """Before anything is sent."""
    with pytest.raises(InvalidIdentifierError):
        events.dead_letters(group)


@pytest.mark.parametrize("limit", [0, -1, 10_001, 1.5, True])
async def test_a_limit_out_of_range_is_refused(events, limit):
    """Before anything is sent."""
    with pytest.raises(DataError):
        await events.dead_letters("g").list(limit=limit)


@pytest.mark.parametrize("place", ["", "1", "-", "1-1-1", "x-1", "(1-1", 7])
async def test_an_id_that_is_none_is_refused(events, bury, place):
    """Nothing is given back or thrown away on a guess."""
    bury()
    letters = events.dead_letters("g")

    for call in (letters.replay, letters.purge):
        with pytest.raises(DataError):
            await call([place])
    with pytest.raises(DataError):
        await letters.list(after=place)
    assert len(await letters.list()) == 1


async def test_without_redis_it_is_unavailable(own_server):
    """And nothing is made up."""
    async with crew_on(own_server) as crew:
        letters = crew.tenant("acme").events.dead_letters("g")
        own_server.kill()

        for call in (letters.list, letters.replay, letters.purge):
            with pytest.raises(UnavailableError):
                await call()


async def test_a_cancelled_replay_loses_nothing(events, bury, server):
    """Each letter is either still one, or an entry again."""
    bury(500)
    task = asyncio.get_running_loop().create_task(events.dead_letters("g").replay())
    await wait_until(lambda: server.execute("XLEN", stream()) > 0, "it has begun")
    task.cancel()
    await asyncio.wait([task])

    def total():
        return server.execute("XLEN", stream()) + server.execute("XLEN", dead_key())

    await wait_until(lambda: total() == 500, "nothing is missing")


async def test_a_letters_age_can_be_told(events, bury):
    """Its time has a zone."""
    bury()
    (letter,) = await events.dead_letters("g").list()

    assert datetime.now(UTC) - letter.failed_at > timedelta(0)
