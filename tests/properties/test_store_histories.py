"""Histories of two managers against a model: whoever wrote last is what stands.

Each manager has a clock of its own, ahead of or behind the server's by up to four
seconds and moved between steps. The calls of a history follow each other, so there is
one right answer to each, and the model is a dict.
"""
# ruff: noqa: ARG002 - every step is called with the same arguments

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_crew_redis import CrewRedis, CrewSettings, DataType, DeleteOutcome
from mcp_crew_redis._wire.header import unseal

STATE = DataType.STATE
NAMES = ("a", "b", "c")
KEY = "mcp-crew:state:{{acme}}:{}"

names = st.sampled_from(NAMES)
writers = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("set"), writers, names, st.integers()),
    st.tuples(st.just("get"), writers, names),
    st.tuples(st.just("delete"), writers, names),
    st.tuples(st.just("expire"), writers, names),
    st.tuples(
        st.just("set_many"), writers, st.dictionaries(names, st.integers(), min_size=1)
    ),
    st.tuples(st.just("get_many"), writers),
    st.tuples(st.just("delete_many"), writers, st.sets(names, min_size=1)),
    st.tuples(st.just("move_clock"), writers, st.integers(-4_000_000, 4_000_000)),
)


class History:
    """Two tenants' handles of one tenant, a model, and the newest stamps seen."""

    def __init__(self, crews, server):
        self.tenants = [crew.tenant("acme") for crew in crews]
        self.clocks = [crew._state.store.context.stamps.hybrid for crew in crews]
        self.server = server
        self.model = {}
        self.acknowledged = dict.fromkeys(NAMES, 0)
        self.read = [dict.fromkeys(NAMES, 0) for _ in crews]

    async def step(self, action, who, *arguments):
        await getattr(self, action)(who, self.tenants[who], *arguments)

    def check_stamp(self, name):
        """No key goes back behind a write that was acknowledged."""
        data = self.server.execute("GET", KEY.format(name))
        stamp = 0 if data is None else unseal(data).stamp
        assert stamp >= self.acknowledged[name]
        return stamp

    def acknowledge(self, name):
        stamp = self.check_stamp(name)
        assert stamp > self.acknowledged[name]
        self.acknowledged[name] = stamp

    async def set(self, who, tenant, name, value):
        await tenant.set(STATE, name, value)
        self.model[name] = value
        before = self.read[who][name]
        self.acknowledge(name)
        assert self.acknowledged[name] > before  # newer than what this one has read

    async def get(self, who, tenant, name):
        entry = await tenant.get_entry(STATE, name)
        assert (entry is None) == (name not in self.model)
        if entry is not None:
            assert entry.value == self.model[name]
            assert entry.stamp >= self.read[who][name]
            self.read[who][name] = entry.stamp

    async def delete(self, who, tenant, name):
        outcome = await tenant.delete(STATE, name)
        was_there = self.model.pop(name, None) is not None
        assert outcome is (DeleteOutcome.DELETED if was_there else DeleteOutcome.ABSENT)
        self.acknowledge(name)

    async def expire(self, who, tenant, name):
        assert await tenant.expire(STATE, name, 500) == (name in self.model)
        if name in self.model:
            self.acknowledge(name)

    async def set_many(self, who, tenant, items):
        await tenant.set_many(STATE, items)
        self.model |= items
        for name in items:
            self.acknowledge(name)

    async def get_many(self, who, tenant):
        assert await tenant.get_many(STATE, NAMES) == self.model

    async def delete_many(self, who, tenant, some):
        count = await tenant.delete_many(STATE, some)
        assert count == sum(self.model.pop(name, None) is not None for name in some)
        for name in some:
            self.acknowledge(name)

    async def move_clock(self, who, tenant, offset_us):
        clock = self.clocks[who]
        clock._offset_us = self.true_offset_us(clock) + offset_us

    def true_offset_us(self, clock):
        seconds, fraction = self.server.execute("TIME")
        now_us = int(seconds) * 1_000_000 + int(fraction)
        return now_us - round(clock._monotonic() * 1e6)


async def play(server, history_steps):
    server.execute("FLUSHALL")
    where = CrewSettings(unix_socket=server.unix_socket)
    async with CrewRedis(where) as one, CrewRedis(where) as two:
        history = History((one, two), server)
        for tenant in history.tenants:
            await tenant.set(STATE, "warm", 0)
        for step in history_steps:
            await history.step(*step)
        for name in NAMES:
            history.check_stamp(name)


@pytest.mark.timeout(180)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history_steps=st.lists(steps, min_size=5, max_size=40))
def test_two_managers_agree_with_a_model(server, history_steps):
    """Whatever their clocks show, each call sees what the last one left."""
    asyncio.run(play(server, history_steps))


@pytest.mark.timeout(60)
async def test_concurrent_writers_leave_the_newest_acknowledged_stamp(server):
    """Two processes' worth of writers, clocks apart, cancels in between."""
    where = CrewSettings(unix_socket=server.unix_socket)
    newest = dict.fromkeys(NAMES, 0)

    async def write(crew, number):
        tenant = crew.tenant("acme")
        for turn in range(60):
            name = NAMES[(turn + number) % len(NAMES)]
            try:
                async with asyncio.timeout(0.0003 if turn % 5 == 0 else None):
                    await tenant.set(STATE, name, [number, turn])
            except TimeoutError:
                continue
            entry = await tenant.get_entry(STATE, name)
            newest[name] = max(newest[name], entry.stamp)

    async with CrewRedis(where) as one, CrewRedis(where) as two:
        for crew in (one, two):
            await crew.tenant("acme").set(STATE, "warm", 0)
        two._state.store.context.stamps.hybrid._offset_us += 3_000_000
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(write((one, two)[number % 2], number))

    for name in NAMES:
        assert unseal(server.execute("GET", KEY.format(name))).stamp >= newest[name]
