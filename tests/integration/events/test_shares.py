"""Shares: each number has one owner, who knows when to hold himself back."""

import asyncio

import pytest

from mcp_crew_redis import DataError
from mcp_crew_redis.clock import SystemClock
from mcp_crew_redis.errors import ConfigurationError, LifecycleError, UnavailableError
from mcp_crew_redis.events.shares import Shares
from mcp_crew_redis.testing import FaultProxy, ManualClock
from tests.integration.store.parts import all_of, store
from tests.rig.waiting import wait_until

KEY = b"p:shares:test"
ALL = frozenset(range(8))


@pytest.fixture
async def context(server):
    async with store(server.client_kwargs) as context:
        yield context


@pytest.fixture
def make(context):
    def make(member, *, lease=15.0, count=8, clock=None):
        clock = clock or SystemClock()
        return Shares(context.port, KEY, member, lease, count, clock)

    return make


async def balance(*all_shares):
    """Renew in turn, giving up what is too many, until nothing moves."""
    for _ in range(4):
        for shares in all_shares:
            held = await shares.hold()
            await shares.hold(sorted(held.owned)[: held.surplus])
    return [shares.owned for shares in all_shares]


async def test_two_members_come_to_have_half_each(make):
    """And no number twice."""
    first, second = await balance(make("a"), make("b"))

    assert len(first) == len(second) == 4
    assert first | second == ALL


async def test_before_the_first_answer_nothing_is_owned(make):
    """Nobody works on a guess."""
    assert make("a").owned == frozenset()


async def test_an_owner_holds_itself_back_before_its_lease_has_passed(make):
    """Without a renewal: nobody else can have the numbers yet."""
    clock = ManualClock()
    shares = make("a", clock=clock)
    await shares.hold()

    await clock.advance(13.4)
    assert shares.owned == ALL

    await clock.advance(0.1)
    assert shares.owned == frozenset()


async def test_a_renewal_prolongs_from_when_it_was_sent(make):
    """Not from its answer."""
    clock = ManualClock()
    shares = make("a", clock=clock)
    await shares.hold()
    await clock.advance(10.0)
    await shares.hold()
    await clock.advance(13.0)

    assert shares.owned == ALL


async def test_the_numbers_of_one_who_stops_go_over_after_one_lease(make):
    """The second has them all, and the first had held back before."""
    first, second = make("a", lease=0.3), make("b", lease=0.3)
    await first.hold()

    async def has_all():
        overlap = second.owned & first.owned
        assert not overlap
        return (await second.hold()).owned == ALL

    await wait_until(has_all, "the second owns everything")
    assert first.owned == frozenset()


async def test_what_is_given_up_is_not_owned_even_if_nobody_answers(make, server):
    """A server that heard of it may have given it to others."""
    shares = make("a")
    await shares.hold()

    with server.paused(), pytest.raises(UnavailableError):
        await shares.hold([1, 2])

    assert shares.owned == ALL - {1, 2}


async def test_leaving_hands_over_at_once(make):
    """The others need not wait for a lease."""
    first, second = make("a"), make("b")
    await first.hold()
    await first.leave()

    assert first.owned == frozenset()
    assert (await second.hold()).owned == ALL


async def test_members_are_all_that_live(make):
    """With count 0 that is all there is to learn."""
    await make("a", count=0).hold()

    held = await make("b", count=0).hold()

    assert held == (frozenset({"a", "b"}), frozenset(), 0)


async def test_a_server_without_memory_of_it_gives_everything_anew(make, server):
    """FLUSHALL: the next call takes."""
    shares = make("a")
    await shares.hold()
    server.execute("FLUSHALL")

    assert (await shares.hold()).owned == ALL


async def test_two_calls_at_a_time_are_an_error(make):
    """Which of their answers would count?"""
    shares = make("a")

    first, second = await all_of([shares.hold(), shares.hold()])

    assert first.owned == ALL
    assert isinstance(second, LifecycleError)


async def test_a_cancelled_call_leaves_the_next_one_free(make):
    """And that tells what stands."""
    shares = make("a")
    task = asyncio.get_running_loop().create_task(shares.hold())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert (await shares.hold()).owned == ALL


async def test_a_lost_answer_is_asked_for_again(server):
    """The script says the same twice."""
    async with (
        FaultProxy(server.unix_socket) as proxy,
        store(proxy.client_kwargs) as context,
    ):
        shares = Shares(context.port, KEY, "a", 15.0, 8, SystemClock())
        await shares.hold()
        proxy.cut()

        async def is_held():
            try:
                return (await shares.hold()).owned == ALL
            except UnavailableError:
                return False

        await wait_until(is_held, "the renewal is answered")


@pytest.mark.parametrize("bad", [{"count": 257}, {"count": -1}, {"lease": 0.0}])
async def test_numbers_out_of_range_are_refused(make, bad):
    """Before anything is sent."""
    with pytest.raises(ConfigurationError):
        make("a", **bad)


async def test_too_many_members_are_a_data_error(make, server):
    """The newcomer is told."""
    seconds = int(server.execute("TIME")[0])
    beats = [f"m:x{number}" for number in range(1_000)]
    pairs = [part for name in beats for part in (name, f"{seconds * 1_000} 1")]
    server.execute("HSET", KEY, *pairs)
    server.execute("PEXPIRE", KEY, 60_000)

    with pytest.raises(DataError, match="1000"):
        await make("a").hold()
