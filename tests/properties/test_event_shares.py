"""Shares under any order of renewals, deaths, lost answers and passing time.

Time is moved: the members' clock is one of the test's, and on the server the beats are
set back by as much.
"""

import asyncio
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_crew_redis.errors import DataError
from mcp_crew_redis.events.shares import Shares
from mcp_crew_redis.testing import ManualClock
from tests.integration.store.parts import store

KEY = b"p:shares:test"
LEASE, COUNT, MEMBERS = 15.0, 6, 3

who = st.integers(0, MEMBERS - 1)
steps = st.one_of(
    st.tuples(st.just("hold"), who),
    st.tuples(st.just("hold"), who),
    st.tuples(st.just("give_up"), who, st.sets(st.integers(0, COUNT - 1))),
    st.tuples(st.just("leave"), who),
    st.tuples(st.just("lose_answer"), who, st.sets(st.integers(0, COUNT - 1))),
    st.tuples(st.just("arrive_late"), who, st.sets(st.integers(0, COUNT - 1))),
    st.tuples(st.just("replace"), who),
    st.tuples(st.just("pass_time"), st.sampled_from([1.0, 4.0, 6.0, 13.0, 14.0, 16.0])),
)


class History:
    """The members, and the hand that moves their time."""

    def __init__(self, context, server):
        self.context, self.server = context, server
        self.clock = ManualClock()
        self.born = 0
        self.members = [self.new() for _ in range(MEMBERS)]

    def new(self):
        self.born += 1
        name = f"m{self.born}"
        return Shares(self.context.port, KEY, name, LEASE, COUNT, self.clock)

    async def step(self, action, *arguments):
        await getattr(self, action)(*arguments)
        owned = [number for shares in self.members for number in shares.owned]
        assert len(owned) == len(set(owned)), "a number has two owners"

    async def hold(self, at):
        held = await self.members[at].hold()
        assert self.members[at].member in held.members
        assert held.surplus <= len(held.owned)

    async def give_up(self, at, numbers):
        held = await self.members[at].hold(numbers)
        assert not held.owned & numbers

    async def leave(self, at):
        await self.members[at].leave()

    async def lose_answer(self, at, numbers):
        """The server does it, and the member never learns of it."""
        shares = self.members[at]
        shares._owned -= numbers
        await shares._call("0", *numbers)

    async def arrive_late(self, at, numbers):
        """A call of long ago comes out of a connection that was given up."""
        shares = self.members[at]
        turn = shares._turn
        if turn < 2:
            return
        shares._turn = turn - 2
        with suppress(DataError):  # what was overtaken is refused
            await shares._call("0", *numbers)
        shares._turn = turn

    async def replace(self, at):
        """The process dies, and another one starts."""
        self.members[at] = self.new()

    async def pass_time(self, seconds):
        await self.clock.advance(seconds)
        fields = self.server.execute("HGETALL", KEY)
        for name, value in fields.items():
            if name.startswith(b"m:"):
                beat, turn = value.split()
                older = b"%d %s" % (int(beat) - round(seconds * 1_000), turn)
                self.server.execute("HSET", KEY, name, older)

    async def settle(self):
        """Everybody renews and gives up what is too many."""
        for _ in range(6):
            for shares in self.members:
                held = await shares.hold()
                await shares.hold(sorted(held.owned)[: held.surplus])


async def play(server, history):
    server.execute("DEL", KEY)
    async with store(server.client_kwargs) as context:
        run = History(context, server)
        for step in history:
            await run.step(*step)
        await run.pass_time(LEASE + 1)  # those who were replaced are gone
        await run.settle()
        owned = [len(shares.owned) for shares in run.members]
        assert sum(owned) == COUNT
        assert max(owned) - min(owned) <= 1


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=st.lists(steps, min_size=8, max_size=40))
def test_no_number_has_two_owners(server, history):
    """At no point, by what the members believe; in the end everything is divided."""
    asyncio.run(play(server, history))
