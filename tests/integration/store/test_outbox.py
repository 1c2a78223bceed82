"""Messages that wait: each is handed on once, in order, whoever hands it on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, FallbackFullError
from mcp_crew_redis.store.journal.entries import Posting
from tests.rig.waiting import wait_until

KEYS = b"mcp-crew:counter:{acme}:%s", b"mcp-crew:meta:{acme}:floor"


class Recorder:
    """Adds one to a counter for each message: a script that may be run twice."""

    def __init__(self):
        self.taken = []
        self.refused = set()

    def call(self, posting):
        """Use the message's name as the writer's: it is added once."""
        names = (KEYS[0] % posting.order_key, KEYS[1])
        return "counter_add", names, (posting.id, 1, 1, 60_000, 0)

    def settle(self, posting, reply):
        """Take it, or complain."""
        if posting.id in self.refused:
            return "nobody wants it"
        self.taken.append((posting.order_key, posting.id, reply[0]))
        return ""


def message(name, order=b"a", kind="note"):
    """Return a message of tenant acme."""
    return Posting(
        id=name, tenant_id="acme", kind=kind, order_key=order, body=b"", made_us=1
    )


@pytest.fixture
def settings(own_server):
    return CrewSettings(unix_socket=Path(own_server.unix_socket))


@pytest.fixture
async def crew(settings):
    async with CrewRedis(settings) as crew:
        yield crew


@pytest.fixture
def store(crew):
    return crew.manager._store


@pytest.fixture
def relay(store):
    relay = Recorder()
    store.landing.employ("note", relay)
    return relay


async def test_messages_of_an_outage_arrive_once_and_in_order(
    crew, store, relay, own_server
):
    """One after the other for each order key; the keys side by side."""
    own_server.kill()
    for number in range(20):
        await store.fallback.post(message(f"a{number}", b"a"))
        await store.fallback.post(message(f"b{number}", b"b"))
    assert crew.journal.statistics().depth == 40
    own_server.start()

    await crew.journal.drained(10)

    for order in (b"a", b"b"):
        names = [name for key, name, _ in relay.taken if key == order]
        assert names == [f"{order.decode()}{number}" for number in range(20)]
        assert own_server.execute("HGET", KEYS[0] % order, "v") == b"20"
    assert crew.journal.statistics().applied == 40


async def test_a_message_waits_for_whoever_hands_it_on(crew, store, own_server):
    """A module that is not there yet may come later."""
    await store.fallback.post(message("a0"))
    await wait_until(lambda: store.journal.unresolved == 1, "it waits")
    assert "note" in crew.journal.unresolved()[0].reason

    relay = Recorder()
    store.landing.employ("note", relay)
    store.sync.kick()
    await crew.journal.drained(5)

    assert relay.taken == [(b"a", "a0", 1)]


async def test_a_message_in_trouble_holds_up_its_own_order_only(crew, store, relay):
    """What comes behind it would be out of order; others go on."""
    relay.refused.add("a0")
    for name, order in (("a0", b"a"), ("a1", b"a"), ("b0", b"b")):
        await store.fallback.post(message(name, order))
    await wait_until(lambda: relay.taken, "the other is taken")
    await wait_until(lambda: store.journal.unresolved == 1, "it is in trouble")
    assert [name for _, name, _ in relay.taken] == ["b0"]

    assert crew.journal.discard(crew.journal.unresolved()) == 1
    await crew.journal.drained(5)

    assert [name for _, name, _ in relay.taken] == ["b0", "a1"]


async def test_a_full_journal_refuses_a_message(store, relay, own_server):
    """Nothing that was accepted makes way for it."""
    own_server.kill()
    store.journal._max_entries = 2
    await store.fallback.post(message("a0"))
    await store.fallback.post(message("a1"))

    with pytest.raises(FallbackFullError):
        await store.fallback.post(message("a2"))

    assert store.journal.depth == 2


async def test_messages_outlive_their_process(settings, tmp_path, own_server):
    """The next process hands them on, in their order."""
    durable = settings.model_copy(update={"journal_dir": tmp_path})
    own_server.kill()
    async with CrewRedis(durable) as crew:
        for number in range(5):
            await crew.manager._store.fallback.post(message(f"a{number}"))
    own_server.start()

    async with CrewRedis(durable) as crew:
        relay = Recorder()
        store = crew.manager._store
        store.landing.employ("note", relay)
        store.sync.kick()
        await crew.journal.drained(10)

    assert [name for _, name, _ in relay.taken] == [f"a{number}" for number in range(5)]


async def test_a_message_that_its_relay_cannot_read_holds_up_nobody(
    crew, store, relay, own_server
):
    """It waits for its owner; others are handed on."""
    call = relay.call

    def reads(posting):
        if posting.id == "a0":
            raise ValueError(posting.body)
        return call(posting)

    relay.call = reads
    own_server.kill()
    for name, order in (("a0", b"a"), ("b0", b"b")):
        await store.fallback.post(message(name, order))
    own_server.start()

    await wait_until(lambda: relay.taken, "the other is taken", 10)
    await wait_until(lambda: store.journal.unresolved == 1, "it waits")
    assert "ValueError" in crew.journal.unresolved()[0].reason
