"""Agents that tell each other what has happened.

Run it: python examples/events.py

# Output:
published tool.discovered as 'acme', stored
indexer: search (of acme, priority HIGH)
audit:   tool.discovered, then knowledge.updated, caused by it: True
writer:  attempt 1, 2: written
dead:    'the page is empty' after 1 attempt; given back: 1, written
both or nothing: paid, 1 order, told as order.paid
twice under one id: the second is a duplicate: True
replayed: alert.raised, knowledge.updated, order.paid, page.wanted, tool.discovered
as a CloudEvent: order.paid 1.0, subject customer-3
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import BaseModel

from mcp_crew_redis import (
    Backoff,
    CrewRedis,
    DataType,
    DeadLetter,
    DeadLetters,
    Event,
    EventCatalog,
    EventConsumer,
    EventPriority,
    EventSchema,
    EventType,
    Reject,
    Subscriptions,
    Tenant,
    to_cloudevent,
)


class Tool(BaseModel):
    """What the payload of `tool.discovered` is."""

    name: str


catalog = EventCatalog([EventSchema(type=EventType.TOOL_DISCOVERED, payload=Tool)])
subscriptions = Subscriptions()
told: asyncio.Queue[str] = asyncio.Queue()
pages = {"home": "", "about": "us"}


async def heard(count: int = 1) -> str:
    """Wait for what handlers say, in order."""
    async with asyncio.timeout(10):
        return ", ".join([await told.get() for _ in range(count)])


@subscriptions.on("tool.*", group="indexer")
async def index(event: Event[Tool]) -> None:
    """Know the payload's type, and publish what follows from it."""
    name, priority = event.payload.name, event.priority.name
    told.put_nowait(f"{name} (of {event.tenant_id}, priority {priority})")
    tenant = crew.tenant(event.tenant_id)
    await tenant.events.publish(EventType.KNOWLEDGE_UPDATED, {"topic": name})


@subscriptions.on(">", group="audit", ordering="key")
async def audit(event: Event[object]) -> None:
    """Want everything: each group gets every event."""
    if event.type == EventType.KNOWLEDGE_UPDATED:
        is_child = event.causation_id == event.correlation_id
        told.put_nowait(f"tool.discovered, then {event.type}, caused by it: {is_child}")


@subscriptions.on("page.wanted", group="writer", backoff=Backoff(base=0, maximum=0))
async def write(event: Event[str]) -> None:
    """Fail at first: it comes again. Reject what will never work."""
    if not pages[event.payload]:
        raise Reject("the page is empty")
    told.put_nowait(f"{event.delivery_count}")
    if event.delivery_count == 1 and event.payload == "about":
        raise ConnectionError
    told.put_nowait("written")


async def talk(acme: Tenant) -> None:
    """Publish, and be told of it."""
    receipt = await acme.events.publish(
        EventType.TOOL_DISCOVERED, Tool(name="search"), priority=EventPriority.HIGH
    )
    print(f"published tool.discovered as {acme.id!r}, {receipt.outcome}")
    print("indexer:", await heard())
    print("audit:  ", await heard())

    await acme.events.publish("page.wanted", "about")
    print("writer:  attempt", (await heard(3)).replace("2, w", "2: w"))


async def first_of(letters: DeadLetters) -> DeadLetter:
    """Wait for a dead letter: nobody is told of one."""
    while True:
        for letter in await letters.list():
            return letter
        await asyncio.sleep(0.01)


async def give_back(acme: Tenant) -> None:
    """Look at what nobody could handle, mend the cause, and try again."""
    await acme.events.publish("page.wanted", "home")
    letters = acme.events.dead_letters("writer")
    async with asyncio.timeout(10):
        letter = await first_of(letters)
    pages["home"] = "welcome"
    count = await letters.replay()
    said = (await heard(2)).rpartition(", ")[2]
    print(
        f"dead:    {letter.reason!r} after {letter.attempts} attempt;",
        f"given back: {count}, {said}",
    )


async def look_back(acme: Tenant) -> None:
    """Change state and tell of it in one step; see what has happened."""
    async with acme.transaction() as order:
        order.set(DataType.STATE, "order:7", "paid")
        order.increment(DataType.COUNTER, "orders")
        order.publish("order.paid", {"order": 7}, key="customer-3")
    state = await acme.get(DataType.STATE, "order:7")
    count = order.result.counters["orders"]
    print(f"both or nothing: {state}, {count} order, told as order.paid")

    for _ in range(2):
        receipt = await acme.events.publish(
            EventType.ALERT_RAISED, "disk full", event_id="disk-1", idempotent=True
        )
    print("twice under one id: the second is a duplicate:", receipt.is_duplicate)

    since = datetime.now(UTC) - timedelta(minutes=5)
    past = [event async for event in acme.events.replay(">", since=since)]
    print("replayed:", ", ".join(sorted({event.type for event in past})))
    [paid] = [to_cloudevent(event) for event in past if event.type == "order.paid"]
    version, subject = paid["specversion"], paid["subject"]
    print(f"as a CloudEvent: {paid['type']} {version}, subject {subject}")


async def main() -> None:
    """Run handlers and publishers in one crew; they may as well be many."""
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet)  # failed handlers are logged as warnings
    async with crew:
        acme = crew.tenant("acme")
        await talk(acme)
        await give_back(acme)
        await look_back(acme)


crew = CrewRedis.embedded(
    services=[EventConsumer(subscriptions)], event_catalog=catalog
)

if __name__ == "__main__":
    asyncio.run(main())
