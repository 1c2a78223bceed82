"""Any transactions of two processes against a model: all of each, or nothing.

Each process's clock is ahead of or behind the server's and moved between steps; replies
are lost; what waits in a journal comes late. The calls of a history follow each other,
so there is one right answer to each.
"""

import asyncio

import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis.errors import ConflictError, ConnectionLostError, DataError
from mcp_crew_redis.events.operations import Batch
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import WriteOutcome

STATE, CACHE, COUNTER = DataType.STATE, DataType.CACHE, DataType.COUNTER
STREAM = "mcp-crew:events:{{acme}}:{}:normal"
COUNT = "mcp-crew:counter:{{acme}}:{}"
LIMIT = 2**63

names = st.sampled_from(["a", "b", "c"])
types = st.sampled_from(["t.one", "t.two"])
conditions = st.sampled_from(["none", "none", "none", "current", "absent", "stale"])
amounts = st.sampled_from([1, -3, 0, LIMIT - 1, -LIMIT, 2**62])
operations = st.one_of(
    st.tuples(st.just("set"), names, st.integers(0, 9), conditions),
    st.tuples(st.just("delete"), names, conditions),
    st.tuples(st.just("cache"), names, st.integers(0, 9)),
    st.tuples(st.just("uncache"), names),
    st.tuples(st.just("increment"), names, amounts),
    st.tuples(st.just("publish"), types, st.integers(0, 9)),
    st.tuples(st.just("publish_once"), types, st.integers(0, 3)),
)
steps = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["well", "well", "well", "lost", "late", "fails"]),
    st.integers(-2_000_000, 2_000_000),
    st.lists(operations, max_size=6),
)


class BodyError(Exception):
    """Raised by the body of a transaction."""


class RefusedError(Exception):
    """The model's answer to a transaction of which nothing may be applied."""


class Plan:
    """What a transaction would make of a model."""

    def __init__(self, model, operations):
        self.model = model
        self.values, self.counters, self.streams = {}, {}, []
        self.conditions, self.known = {}, {}
        for action, name, *rest in operations:
            getattr(self, action)(name, *rest)
        for name, amount in self.counters.items():
            self.counters[name] = within_64_bits(model.counters.get(name, 0) + amount)

    def set(self, name, value, kind):
        condition = self.model.condition(name, kind)
        if condition is not None:
            is_same = self.conditions.setdefault(name, condition) == condition
            if not is_same or condition != self.model.stamps.get((STATE, name), 0):
                raise RefusedError
        self.values[STATE, name] = value

    def delete(self, name, kind):
        self.set(name, None, kind)

    def cache(self, name, value):
        self.values[CACHE, name] = value

    def uncache(self, name):
        self.values[CACHE, name] = None

    def increment(self, name, amount):
        self.counters[name] = within_64_bits(self.counters.get(name, 0) + amount)

    def publish(self, name, payload):
        self.streams.append((name, payload))

    def publish_once(self, name, payload):
        if payload not in self.model.known and payload not in self.known:
            self.known[payload] = name
            self.streams.append((name, payload))


def within_64_bits(value):
    """Return it; refuse what a counter refuses."""
    if not -LIMIT <= value < LIMIT:
        raise RefusedError
    return value


def fill(tx, model, operations):
    """Have a real transaction collect the same."""
    for action, name, *rest in operations:
        if action == "set":
            tx.set(STATE, name, rest[0], if_stamp=model.condition(name, rest[1]))
        elif action == "delete":
            tx.delete(STATE, name, if_stamp=model.condition(name, rest[0]))
        elif action == "cache":
            tx.set(CACHE, name, rest[0])
        elif action == "uncache":
            tx.delete(CACHE, name)
        elif action == "increment":
            tx.increment(COUNTER, name, rest[0])
        else:
            is_once = action == "publish_once"
            event_id = f"once-{rest[0]}" if is_once else None
            tx.publish(name, rest[0], event_id=event_id, idempotent=is_once)


class History:
    """Two crews, one tenant, and what must stand."""

    def __init__(self, crews, proxies, server):
        self.tenants = [crew.tenant("acme") for crew in crews]
        self.stores = [crew.manager._store for crew in crews]
        self.clocks = [store.context.stamps.hybrid for store in self.stores]
        self.offsets = [clock._offset_us for clock in self.clocks]
        self.proxies, self.server = proxies, server
        self.values, self.stamps, self.counters = {}, {}, {}
        self.streams = {"t.one": [], "t.two": []}
        self.known = {}
        self.newest = 0

    def condition(self, name, kind):
        current = self.stamps.get((STATE, name), 0)
        return {"none": None, "current": current, "absent": 0, "stale": 7}[kind]

    async def step(self, who, how, moved, operations):
        self.clocks[who]._offset_us = self.offsets[who] + moved
        try:
            plan = Plan(self, operations)
        except RefusedError:
            plan = None
        if how == "late":
            is_applied = await self.late(who, operations)
        else:
            is_applied = await self.live(who, how, operations)
        assert is_applied is (plan is not None and how != "fails")
        if is_applied:
            self.accept(plan)
        await self.check()

    async def live(self, who, how, operations):
        """Apply it; say whether it was."""
        if how == "lost":
            self.proxies[who].drop_reply_to(b"acme}:transaction")
        try:
            async with self.tenants[who].transaction() as tx:
                fill(tx, self, operations)
                self.fail(how)
        except (ConflictError, DataError, BodyError):
            return False
        finally:
            self.proxies[who].heal()
        assert tx.result.outcome is WriteOutcome.STORED
        self.newest = max(self.newest, tx.result.stamp or 0)
        return True

    def fail(self, how):
        if how == "fails":
            raise BodyError

    async def late(self, who, operations):
        """Have the journal bring it, of which conditions are no matter."""
        store, tenant = self.stores[who], self.tenants[who]
        self.clocks[who].follow(self.newest)
        tx = tenant.transaction()
        try:
            async with tx:
                fill(tx, self, operations)
                batch, tx._batch = tx._batch, Batch("empty", tx._keys)
        except DataError:
            return False
        if batch.is_conditional or not len(batch):
            return await self.live(who, "well", operations)
        transactor = tenant.events._transactor
        await transactor._defer(batch, ConnectionLostError("for the journal"))
        async with asyncio.timeout(10):
            await store.sync.settled()
        self.newest = max(self.newest, self.clocks[who].last)
        refused = store.journal.troubled()
        for entry in refused:
            store.journal.remove(entry)
        return not refused

    def accept(self, plan):
        self.values |= plan.values
        self.counters |= plan.counters
        self.known |= plan.known
        for name, payload in plan.streams:
            self.streams[name].append(payload)

    async def check(self):
        """Hold everything against the model."""
        for (kind, name), value in self.values.items():
            entry = await self.tenants[0].get_entry(kind, name)
            assert (None if entry is None else entry.value) == value
            self.stamps[kind, name] = 0 if entry is None else entry.stamp
        for name, value in self.counters.items():
            stands = self.server.execute("HGET", COUNT.format(name), "v")
            assert int(stands or 0) == value
        for name, payloads in self.streams.items():
            entries = self.server.execute("XRANGE", STREAM.format(name), "-", "+")
            bodies = [msgpack.unpackb(fields[b"d"]) for _, fields in entries]
            assert bodies == payloads


async def play(server, history):
    server.execute("FLUSHALL")
    async with (
        FaultProxy(server.unix_socket) as first,
        FaultProxy(server.unix_socket) as second,
    ):
        proxies = [first, second]
        crews = [
            CrewRedis(
                CrewSettings(
                    unix_socket=proxy.unix_socket, circuit_breaker_timeout=0.05
                )
            )
            for proxy in proxies
        ]
        async with crews[0], crews[1]:
            for crew in crews:
                await crew.tenant("acme").set(STATE, "warm", 1)
            one = History(crews, proxies, server)
            for step in history:
                await one.step(*step)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(steps, min_size=1, max_size=8))
def test_a_transaction_is_applied_whole_or_not_at_all(server, history):
    """Whatever happens to its connection, and whoever's clock is wrong."""
    asyncio.run(play(server, history))
