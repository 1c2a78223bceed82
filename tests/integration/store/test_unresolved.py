"""What cannot simply land waits for its owner: shown, kept, discarded or applied."""

from __future__ import annotations

import pytest

from mcp_crew_redis._wire.header import seal
from mcp_crew_redis.crew.checkup import journal_health
from mcp_crew_redis.store.journal.entries import Posting, Register
from mcp_crew_redis.store.journal_view import JournalView
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import WriteOutcome
from tests.integration.store.outage_parts import (
    away,
    back,
    drained,
    manager_of,
    opened,
    state,
)
from tests.rig.waiting import wait_until

KEY = "p:state:{acme}:k"
HOUR = 3_600.0


@pytest.fixture
async def proxy(server):
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy):
    async with opened(proxy.client_kwargs, tombstone_ttl=HOUR) as store:
        yield store


@pytest.fixture
async def manager(store):
    manager = manager_of(store)
    await manager.set(**state("warm"), value=0)
    return manager


@pytest.fixture
def view(store):
    return JournalView(store)


def aged(store, hours, identifier="k", value=1, lives_hours=48.0):
    """Have something wait that was written that many hours ago."""
    now = store.context.stamps.hybrid.now_us()
    stamp = now - round(hours * HOUR * 1e6)
    key = store.keys.tenant("acme").key("state", identifier)
    payload = store.context.codec.encode(value)
    ends_ms = round((now / 1e6 + lives_hours * HOUR) * 1e3)
    store.journal.put(Register.of(key, "acme", seal(stamp, payload, ends_ms)))


async def test_what_is_too_old_to_tell_waits_for_a_decision(
    server, store, manager, view
):
    """It may have been deleted since, and the tombstone be gone."""
    aged(store, hours=2)
    await drained(store)

    (waiting,) = view.unresolved()
    assert (waiting.tenant_id, waiting.kind, waiting.identifier) == (
        "acme",
        "value",
        "k",
    )
    assert "REDIS_CREW_TOMBSTONE_TTL" in waiting.reason
    assert server.execute("EXISTS", KEY) == 0
    assert view.statistics().unresolved == view.statistics().depth == 1


async def test_what_is_old_lands_where_something_stands(server, store, manager, view):
    """Nothing was deleted there."""
    await manager.set(**state("k"), value=0)
    held = server.execute("GET", KEY)
    old = seal(1_000_000, held[16:], 9)
    server.execute("SET", KEY, old, "PX", 60_000)
    aged(store, hours=2)
    await drained(store)

    assert view.unresolved() == []
    assert await manager.get(**state("k")) == 1


async def test_what_is_over_by_itself_is_complete(server, store, manager, view):
    """No decision is needed about what nobody could read any more."""
    aged(store, hours=2, lives_hours=-1.0)
    await drained(store)

    assert store.journal.depth == 0
    assert store.landing.statistics.expired == 1


async def test_an_applied_entry_is_written(store, manager, view):
    """Once, with the end that it had."""
    aged(store, hours=2)
    await drained(store)

    assert view.apply(view.unresolved()) == 1
    await drained(store)

    assert view.unresolved() == []
    assert store.journal.depth == 0
    assert await manager.get(**state("k")) == 1


async def test_applying_does_not_clobber_what_is_newer(server, store, manager, view):
    """Somebody wrote it meanwhile."""
    aged(store, hours=2)
    await drained(store)
    waiting = view.unresolved()
    async with opened(server.client_kwargs) as other:
        await manager_of(other).set(**state("k"), value="newer")

    assert view.apply(waiting) == 1
    await drained(store)

    assert await manager.get(**state("k")) == "newer"
    assert store.landing.statistics.conflicts == 1


async def test_a_discarded_entry_is_gone(server, store, manager, view):
    """For good, and nothing was written."""
    aged(store, hours=2)
    aged(store, hours=2, identifier="other")
    await drained(store)

    first = [one for one in view.unresolved() if one.identifier == "k"]
    assert view.discard(first) == 1
    assert view.discard(first) == 0

    assert [one.identifier for one in view.unresolved()] == ["other"]
    assert server.execute("EXISTS", KEY) == 0


async def test_a_live_write_ends_it(store, manager, view):
    """What is newer stands: nothing is left to decide."""
    aged(store, hours=2)
    await drained(store)

    assert await manager.set(**state("k"), value=2) is WriteOutcome.STORED

    assert view.unresolved() == []
    assert store.journal.depth == 0
    assert await manager.get(**state("k")) == 2


async def test_a_decision_that_comes_late_does_nothing(store, manager, view):
    """The entry was replaced while its owner thought."""
    aged(store, hours=2)
    await drained(store)
    waiting = view.unresolved()
    await manager.set(**state("k"), value=2)

    assert view.apply(waiting) == 0
    assert view.discard(waiting) == 0
    assert await manager.get(**state("k")) == 2


async def test_a_purge_ends_it(store, manager, view):
    """Nothing is left to decide."""
    aged(store, hours=2)
    await drained(store)
    await manager.purge(tenant_id="acme")

    assert view.unresolved() == []
    assert view.statistics().unresolved == view.statistics().depth == 0


async def test_its_value_is_read_meanwhile(store, manager, view):
    """By who wrote it, and seen to be stale."""
    aged(store, hours=2)
    await drained(store)

    entry = await manager.get_entry(**state("k"))

    assert (entry.value, entry.source, entry.is_stale) == (1, "journal", True)


async def test_a_posting_that_nobody_hands_on_waits(store, manager, view):
    """With all that follow it, in their order."""
    for number in range(2):
        store.journal.post(
            Posting(
                id=f"m{number}",
                tenant_id="acme",
                kind="unknown",
                order_key=b"stream",
                body=b"",
                made_us=store.context.stamps.hybrid.now_us(),
            )
        )
    await drained(store)

    (first,) = view.unresolved()
    assert (first.kind, first.identifier) == ("unknown", "")
    assert view.discard([first]) == 1
    await wait_until(lambda: len(view.unresolved()) == 1, "the next has its turn")
    assert view.statistics().depth == 1


async def test_health_tells_what_needs_a_decision(store, manager, view):
    """How many, and that everything else goes on."""
    aged(store, hours=2)
    await drained(store)

    told = journal_health(view)

    assert told.reason == "1 entries wait for a decision"
    assert told.is_serving
    assert told.detail["unresolved_count"] == 1


async def test_health_tells_of_an_outage(proxy, store, manager, view):
    """What waits, since when, and what is in its way; then nothing any more."""
    await away(proxy, store)
    await manager.set(**state("k"), value=1)
    await wait_until(lambda: journal_health(view).reason is not None, "it is told")
    told = journal_health(view)
    assert told.state == "waiting"
    assert told.reason == "the circuit is not closed"
    assert told.detail["depth"] == 1

    await back(proxy)
    await drained(store)
    told = journal_health(view)
    assert (told.state, told.reason) == ("empty", None)
    assert told.detail["depth"] == told.detail["bytes"] == 0
    assert told.detail["oldest_age_s"] == 0
