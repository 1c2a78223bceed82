"""Histories of two managers whose calls overlap, and of writes that land late.

Where calls follow each other there is one right answer; tests/properties/
test_store_histories.py has those. Here they overlap: each answer must be one that some
order of the calls under way explains, stamps never go back, and what a write that was
frozen earlier meets when it lands at last is left as it is.
"""
# ruff: noqa: ARG002 - every call is made with the same arguments

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._wire.header import unseal
from mcp_crew_redis.errors import ConflictError

STATE, COUNTER = DataType.STATE, DataType.COUNTER
NAMES = ("a", "b")
KEY = "mcp-crew:state:{{acme}}:{}"
GONE = object()

who, names = st.integers(0, 1), st.sampled_from(NAMES)
calls = st.one_of(
    st.tuples(st.just("set"), who, names),
    st.tuples(st.just("set"), who, names),
    st.tuples(st.just("get"), who, names),
    st.tuples(st.just("delete"), who, names),
    st.tuples(st.just("expire"), who, names),
    st.tuples(st.just("get_many"), who, st.just("a")),
    st.tuples(st.just("increment"), who, names),
    st.tuples(st.just("freeze"), who, names),
    st.tuples(st.just("land"), who, names),
)
rounds = st.lists(
    st.tuples(
        st.lists(calls, min_size=1, max_size=6),  # these overlap
        st.lists(st.booleans(), min_size=6, max_size=6),  # those are cancelled
        st.lists(st.sampled_from((-6, -0.5, 0, 0.5, 6)), min_size=2, max_size=2),
    ),
    min_size=2,
    max_size=10,
)


@dataclass
class Key:
    """What is known of one key between two rounds.

    Attributes:
        value: What stands.
        maybe: What may stand when the calls of this round have ended.
        stamp: The newest that was seen.
    """

    value: object = GONE
    maybe: list[object] = field(default_factory=list)
    stamp: int = 0


class History:
    """Two crews of one tenant, late writes that were frozen, and what is known."""

    def __init__(self, crews, server):
        self.crews, self.server = crews, server
        self.tenants = [crew.tenant("acme") for crew in crews]
        self.keys = {name: Key() for name in NAMES}
        self.frozen = {name: [] for name in NAMES}
        self.sums = dict.fromkeys(NAMES, 0)
        self.unsure = dict.fromkeys(NAMES, 0)
        self.number = 0

    async def play(self, calls, cancels, offsets):
        for crew, offset in zip(self.crews, offsets, strict=True):
            self.move_clock(crew, offset)
        for key in self.keys.values():
            key.maybe = [key.value]
        async with asyncio.TaskGroup() as group:
            for (what, at, name), is_cancelled in zip(calls, cancels, strict=False):
                call = getattr(self, what)(at, self.tenants[at], name)
                task = group.create_task(call)
                if is_cancelled:
                    await asyncio.sleep(0)
                    task.cancel()
        for crew in self.crews:
            # A cancelled write may still be on its way, and would land between the two
            # reads: a connection's commands are executed in their order.
            await crew.redis.ping()
        for name, key in self.keys.items():
            await self.settle(name, key)

    async def settle(self, name, key):
        """Both see the same, it is one of those that may stand, and no older."""
        seen = [await tenant.get(STATE, name, default=GONE) for tenant in self.tenants]
        assert seen[0] == seen[1]
        assert seen[0] in key.maybe
        data = self.server.execute("GET", KEY.format(name))
        stamp = 0 if data is None else unseal(data).stamp
        assert stamp >= key.stamp
        key.value, key.stamp = seen[0], stamp

    def next_value(self, name):
        self.number += 1
        self.keys[name].maybe.append(self.number)
        return self.number

    async def set(self, at, tenant, name):
        await tenant.set(STATE, name, self.next_value(name))

    async def delete(self, at, tenant, name):
        self.keys[name].maybe.append(GONE)
        await tenant.delete(STATE, name)

    async def expire(self, at, tenant, name):
        await tenant.expire(STATE, name, 900)

    async def get(self, at, tenant, name):
        first = await tenant.get_entry(STATE, name)
        second = await tenant.get_entry(STATE, name)
        for entry in (first, second):
            assert (GONE if entry is None else entry.value) in self.keys[name].maybe
        if first is not None and second is not None:
            assert second.stamp >= first.stamp >= self.keys[name].stamp

    async def get_many(self, at, tenant, name):
        found = await tenant.get_many(STATE, NAMES)
        for each in NAMES:
            assert found.get(each, GONE) in self.keys[each].maybe

    async def increment(self, at, tenant, name):
        self.sums[name] += 1
        self.unsure[name] += 1
        assert await tenant.increment(COUNTER, name) <= self.sums[name]
        self.unsure[name] -= 1

    async def freeze(self, at, tenant, name):
        """A process stamps a write, and its path falls asleep."""
        values = self.crews[at]._state.store.values
        stamp = self.crews[at]._state.store.context.stamps.stamp()
        late = values.sealed(stamp, values.encoded(f"late {stamp}"), 60_000)
        self.frozen[name].append((stamp, late))

    async def land(self, at, tenant, name):
        """The path wakes: what is older than what stands changes nothing."""
        if not self.frozen[name]:
            return
        stamp, late = self.frozen[name].pop()
        key = KEY.format(name)
        if stamp > self.keys[name].stamp:  # not older: it may well stand
            self.keys[name].maybe.append(f"late {stamp}")
        store = self.crews[at]._state.store
        floor = b"mcp-crew:meta:{acme}:floor"
        await store.values._write("set_newer", (key.encode(), floor), (late, 60_000))

    def move_clock(self, crew, offset):
        clock = crew._state.store.context.stamps.hybrid
        seconds, fraction = self.server.execute("TIME")
        true_us = int(seconds) * 1_000_000 + int(fraction)
        clock._offset_us = true_us - round(clock._monotonic() * 1e6)
        clock._offset_us += round(offset * 1e6)

    async def check_counters(self):
        """What returned was added; what was cancelled may have been."""
        for name in NAMES:
            for tenant in self.tenants:  # whatever is uncertain is settled by this
                await tenant.increment(COUNTER, name, 0)
            total = await self.tenants[0].increment(COUNTER, name, 0)
            assert self.sums[name] - self.unsure[name] <= total <= self.sums[name]


async def play(server, history_rounds):
    server.execute("FLUSHALL")
    where = CrewSettings(unix_socket=server.unix_socket)
    async with CrewRedis(where) as one, CrewRedis(where) as two:
        history = History((one, two), server)
        for tenant in history.tenants:
            await tenant.set(STATE, "warm", 0)
        for one_round in history_rounds:
            try:
                await history.play(*one_round)
            except* ConflictError as group:
                raise AssertionError("a live write was kept out") from group
        await history.check_counters()


@pytest.mark.timeout(180)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history_rounds=rounds)
def test_overlapping_calls_have_an_order_that_explains_them(server, history_rounds):
    """Clocks up to six seconds apart, cancels, and writes from the past."""
    asyncio.run(play(server, history_rounds))
