"""transact.lua: all of a transaction or nothing, and once."""

import msgpack
import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.header import seal, seal_tombstone

MARK, FLOOR = b"p:event:{acme}:transaction:t1", b"p:meta:{acme}:floor"
STATE, COUNTER = b"p:state:{acme}:a", b"p:counter:{acme}:n"
STREAM, ID_MARK = b"p:events:{acme}:order.paid:normal", b"p:event:{acme}:mark:e1"
DUE, BODIES = b"p:events:{acme}:scheduled", b"p:event:{acme}:scheduled"
STAMP = 1_763_000_000_000_001
DAY_US = 86_400_000_000
STANDS, APPLIED, REPEATED, CROWDED, UNEQUAL, OVERFLOW, FORGOTTEN, OTHER = range(8)


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
async def now(client):
    """Return the server's time, as a stamp."""
    seconds, fraction = await client.time()
    return seconds * 1_000_000 + fraction


@pytest.fixture
def transact(client):
    script = ScriptLoader().load("transact")

    async def transact(*operations, stamp=STAMP, memory=0, mark=MARK):
        keys, args = [mark, FLOOR], [60_000, memory]
        for kind, key, *rest in operations:
            if key not in keys:
                keys.append(key)
            args += [kind, keys.index(key) + 1, *rest]
        if any(operation[0] in "EL" for operation in operations):
            keys += [ID_MARK, BODIES, *([] if STREAM in keys else [STREAM])]
            places = {"BODIES": BODIES, "STREAM": STREAM, "MARK": ID_MARK}
            for name, key in places.items():
                place = str(keys.index(key) + 1)
                args = [
                    one.replace(name, place) if isinstance(one, str) else one
                    for one in args
                ]
        args = [keys.index(one) + 1 if one is ID_MARK else one for one in args]
        outcome, text = await script(client, keys, [*args, stamp])
        return outcome, text.decode() if isinstance(text, bytes) else text

    return transact


def value(payload=b"v", stamp=STAMP, condition=""):
    """Return the writing of a state."""
    return "S", STATE, seal(stamp, payload), 60_000, condition


def amount(number, key=COUNTER):
    """Return an increment."""
    return "C", key, number, 60_000, ""


EVENT = "E", STREAM, b"head", b"body", 0
MARKED = "E", STREAM, b"head", b"body", ID_MARK


def later(limit=10, delay=5_000):
    """Return an event for later, and one for now."""
    return (
        ("L", DUE, b"head", b"body", f"BODIES STREAM MARK {delay} {limit} an id"),
        ("E", STREAM, b"h", b"b", 0),
    )


async def test_all_of_it_is_applied(client, transact):
    """A value, a counter and an event, told of in order."""
    outcome, told = await transact(value(), amount(3), EVENT)

    stamp, count, place = told.split(" ")
    assert (outcome, int(stamp), count) == (APPLIED, STAMP, "3")
    assert await client.get(STATE) == seal(STAMP, b"v")
    assert await client.hgetall(COUNTER) == {b"v": b"3"}
    assert await client.xrange(STREAM) == [
        (place.encode(), {b"m": b"head", b"d": b"body"})
    ]


async def test_a_repetition_changes_nothing_and_tells_the_same(client, transact):
    """Whatever has become of it since."""
    _, told = await transact(value(), amount(3), EVENT)
    await client.delete(STATE)

    assert await transact(value(), amount(3), EVENT) == (REPEATED, told)
    assert await client.xlen(STREAM) == 1
    assert not await client.exists(STATE)


async def test_what_it_leaves_expires(client, transact):
    """All but the stream, whose length is the janitor's."""
    await transact(value(), amount(1), *later())

    for key in (MARK, STATE, COUNTER):
        assert 0 < await client.pttl(key) <= 60_000
    for key in (DUE, BODIES):
        assert 604_800_000 < await client.pttl(key) <= 604_805_000


async def test_a_newer_value_stands_in_the_way_of_all(client, transact):
    """Its stamp is told, for the next try."""
    await client.set(STATE, seal(STAMP + 7, b"n"), px=60_000)

    assert await transact(amount(1), value(), EVENT) == (STANDS, str(STAMP + 7))
    assert await client.exists(COUNTER, STREAM, MARK) == 0


async def test_the_floor_stands_in_the_way(client, transact):
    """A purge was after it."""
    await client.set(FLOOR, STAMP)

    assert await transact(amount(1)) == (STANDS, str(STAMP))
    assert await client.exists(COUNTER, MARK) == 0


@pytest.mark.parametrize(
    ("held", "condition", "is_met"),
    [
        (None, 0, True),
        (None, 5, False),
        (seal(5, b"x"), 5, True),
        (seal(6, b"x"), 5, False),
        (seal(5, b"x"), 0, False),
        (seal_tombstone(5), 0, True),
        (seal_tombstone(5), 5, False),
        (b"foreign", 0, True),
    ],
)
async def test_a_condition_names_the_stamp_that_stands(
    client, transact, held, condition, is_met
):
    """0 for nothing, to which tombstones and foreign bytes belong."""
    if held is not None:
        await client.set(STATE, held, px=60_000)

    outcome, told = await transact(amount(1), value(condition=condition))

    assert outcome == (APPLIED if is_met else UNEQUAL)
    assert is_met or told == 2
    assert await client.exists(COUNTER, MARK) == (2 if is_met else 0)


async def test_a_value_without_order_is_written_over_what_is_newer(client, transact):
    """And ends without a tombstone."""
    for key in (b"{acme}a", b"{acme}b"):
        await client.set(key, seal(STAMP + 9, b"x"), px=60_000)

    plain = (
        ("P", b"{acme}a", seal(STAMP, b"v"), 60_000, ""),
        ("U", b"{acme}b", "", 0, ""),
    )
    assert (await transact(*plain))[0] == APPLIED

    assert await client.mget(b"{acme}a", b"{acme}b") == [seal(STAMP, b"v"), None]


@pytest.mark.parametrize(
    ("held", "number", "fits"),
    [
        (2**63 - 1, 0, True),
        (2**63 - 1, 1, False),
        (2**63 - 2, 1, True),
        (2**63 - 1, -(2**63), True),
        (-(2**63), -1, False),
        (-(2**63), 0, True),
        (-(2**63) + 1, -1, True),
        (-(2**63), 2**63 - 1, True),
        (2**62, 2**62, False),
        (-(2**62), -(2**62), True),
        (-(2**62) - 1, -(2**62), False),
        (10**18, 999_999_999, True),
        (-1, 1, True),
    ],
)
async def test_a_counter_keeps_within_64_bits(client, transact, held, number, fits):
    """Exactly, and before anything is applied."""
    await client.hset(COUNTER, "v", held)

    outcome, told = await transact(value(), amount(number))

    assert outcome == (APPLIED if fits else OVERFLOW)
    assert told == (f"{STAMP} {held + number}" if fits else 2)
    assert int(await client.hget(COUNTER, "v")) == held + (number if fits else 0)
    assert await client.exists(STATE) == fits


@pytest.mark.parametrize("held", [b"x", b"1.5", b"", b"007", b"-0", b" 1", b"9" * 20])
async def test_what_is_no_number_is_no_counter(client, transact, held):
    """Nothing is applied."""
    await client.hset(COUNTER, "v", held)

    assert await transact(value(), amount(1)) == (OTHER, 2)
    assert not await client.exists(STATE)


@pytest.mark.parametrize("operation", [value(), amount(1), EVENT, *later()])
async def test_a_key_of_another_type_stops_all(client, transact, operation):
    """Told by its number."""
    await client.sadd(operation[1], "x")

    assert await transact(amount(1, b"{acme}other"), operation) == (OTHER, 2)
    assert await client.exists(b"{acme}other", MARK) == 0


async def test_a_value_of_a_newer_release_stops_all(client, transact):
    """As for every write."""
    await client.set(STATE, b"\xc7\x20" + bytes(14), px=60_000)

    with pytest.raises(ResponseError, match="NEWERFORMAT"):
        await transact(amount(1), value())
    assert not await client.exists(COUNTER)


async def test_an_event_under_a_known_id_is_not_added(client, transact):
    """Where it stands is told behind a =."""
    first = (await transact(MARKED))[1].split(" ")[1]

    _, told = await transact(MARKED, mark=b"{acme}t2")

    assert told.split(" ")[1] == f"={first}"
    assert await client.xlen(STREAM) == 1
    assert await client.get(ID_MARK) == first.encode()


async def test_an_event_for_later_waits_with_its_stream(client, transact, now):
    """In the format of event_schedule.lua; a second one of its id is none."""
    outcome, told = await transact(*later())
    assert (outcome, told.split(" ")[1]) == (APPLIED, "-")

    ((name, due),) = await client.zrange(DUE, 0, -1, withscores=True)
    assert name == b"an id"
    assert 0 <= due - (now // 1_000 + 5_000) < 5_000
    body = msgpack.unpackb(await client.hget(BODIES, name), raw=True)
    assert body == [STREAM, b"head", b"body"]
    assert await client.get(ID_MARK) == b"-"
    assert (await transact(*later(), mark=b"{acme}t2"))[1].split(" ")[1] == "=-"
    assert await client.zcard(DUE) == 1


async def test_too_many_events_for_later_stop_all(client, transact):
    """The bound is the caller's."""
    assert await transact(*later(limit=0)) == (CROWDED, 1)
    assert not await client.exists(STREAM)


async def test_a_server_without_memory_applies_nothing(client, transact, exhaust):
    """The mark is the first thing that is refused."""
    exhaust()

    with pytest.raises(redis.exceptions.RedisError, match=r"OOM|memory"):
        await transact(value(), amount(1), EVENT)
    assert await client.exists(STATE, COUNTER, STREAM, MARK) == 0


# --- late ---------------------------------------------------------------------------


async def test_a_late_one_leaves_newer_values_as_they_are(client, transact, now):
    """The rest of it is applied, with what is left of its time."""
    await client.set(STATE, seal(now, b"n"), px=60_000)
    await client.set(b"{acme}plain", seal(now, b"n"), px=60_000)
    made = now - 20_000_000
    other = ("S", b"{acme}other", seal(made, b"v"), 60_000, "")
    plain = ("P", b"{acme}plain", seal(made, b"v"), 60_000, "")

    operations = value(stamp=made), other, plain, amount(2)
    outcome, _ = await transact(*operations, stamp=made, memory=DAY_US)

    assert outcome == APPLIED
    assert await client.mget(STATE, b"{acme}plain") == [seal(now, b"n")] * 2
    assert await client.get(b"{acme}other") == seal(made, b"v")
    assert 30_000 < await client.pttl(b"{acme}other") <= 40_000
    assert await client.hget(COUNTER, "v") == b"2"


async def test_a_late_value_whose_time_is_over_is_not_written(client, transact, now):
    """The rest is."""
    made = now - 61_000_000

    outcome, _ = await transact(value(stamp=made), amount(1), stamp=made, memory=DAY_US)

    assert outcome == APPLIED
    assert not await client.exists(STATE)


async def test_one_that_is_older_than_its_mark_is_refused(client, transact, now):
    """Nobody could tell its repetition."""
    made = now - 2_000_000

    assert await transact(amount(1), stamp=made, memory=1_000_000) == (
        FORGOTTEN,
        str(made),
    )
    assert not await client.exists(COUNTER)
