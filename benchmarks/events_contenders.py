"""How each consumer is set up and filled, for `events_consume.py`.

Each is tuned as its documentation says; where that leaves a choice, several are
measured and the best one counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from events_rig import (
    EVENT_TYPE,
    GROUP,
    PAYLOAD,
    SEEDS,
    STREAM,
    TENANT,
    Lap,
    StopWatch,
    faststream_broker,
    open_crew,
    raw_client,
)
from rig import Address

if TYPE_CHECKING:
    from mcp_crew_redis.events.event import Event

READ_COUNT = 100
FASTSTREAM_BATCHES = (100, 256, 1_000)

Seed = Callable[[Address], Awaitable[None]]
Consume = Callable[[Address, StopWatch], Awaitable[Lap]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to consume. `kind` is "single" or "batch"."""

    name: str
    kind: str
    seed: Seed
    consume: Consume
    events: int  # in the stream, for a sample of a second or two


# --- ours ---------------------------------------------------------------------------


async def seed_ours(address: Address) -> None:
    from mcp_crew_redis.events.event import Event

    async with open_crew(address) as crew:
        events = [Event.new(EVENT_TYPE, PAYLOAD) for _ in range(SEEDS)]
        await crew.tenant(TENANT).events.publish_many(events)


@contextlib.asynccontextmanager
async def consuming(
    address: Address, handler: Callable[[Any], Awaitable[None]], **options: Any
) -> AsyncIterator[None]:
    """Run a crew with one subscription to everything."""
    from mcp_crew_redis.events.subscriptions import Subscriptions
    from mcp_crew_redis.services import EventConsumer

    subscriptions = Subscriptions()
    subscriptions.on(">", group=GROUP, **options)(handler)
    async with open_crew(address, EventConsumer(subscriptions)):
        yield


async def consume_ours(address: Address, watch: StopWatch) -> Lap:
    async def handler(event: Event[dict]) -> None:  # noqa: ARG001
        watch.count()

    async with consuming(address, handler):
        return await watch.lap()


def consume_ours_in_batches(size: int) -> Consume:
    async def consume(address: Address, watch: StopWatch) -> Lap:
        async def handler(events: list[Event[dict]]) -> None:
            watch.count(len(events))

        async with consuming(address, handler, batch=True, batch_size=size):
            return await watch.lap()

    return consume


# --- FastStream ---------------------------------------------------------------------


async def seed_faststream(address: Address) -> None:
    broker = faststream_broker(address)
    async with broker, raw_client(address) as raw:
        pipe = raw.pipeline(transaction=False)
        for _ in range(SEEDS):
            await broker.publish(PAYLOAD, stream=STREAM, pipeline=pipe)
        await pipe.execute()


def consume_faststream(*, workers: int = 1) -> Consume:
    """One message per call; `max_records` spares the round trip for every read."""
    from faststream.redis import StreamSub

    async def consume(address: Address, watch: StopWatch) -> Lap:
        broker = faststream_broker(address)
        where = StreamSub(
            STREAM, group=GROUP, consumer="c", last_id="0", max_records=READ_COUNT
        )
        options = {"max_workers": workers} if workers > 1 else {}

        @broker.subscriber(stream=where, **options)
        async def handler(message: dict) -> None:  # noqa: ARG001
            watch.count()

        async with broker:
            await broker.start()
            return await watch.lap()

    return consume


def consume_faststream_in_batches(size: int) -> Consume:
    from faststream.redis import StreamSub

    async def consume(address: Address, watch: StopWatch) -> Lap:
        broker = faststream_broker(address)
        where = StreamSub(
            STREAM,
            group=GROUP,
            consumer="c",
            last_id="0",
            batch=True,
            max_records=size,
        )

        @broker.subscriber(stream=where)
        async def handler(messages: list[dict]) -> None:
            watch.count(len(messages))

        async with broker:
            await broker.start()
            return await watch.lap()

    return consume


# --- redis-py and walrus ------------------------------------------------------------


async def seed_raw(address: Address) -> None:
    async with raw_client(address) as raw:
        pipe = raw.pipeline(transaction=False)
        for number in range(SEEDS):
            body = orjson.dumps(PAYLOAD | {"results": number})
            pipe.xadd(STREAM, {b"d": body})
        await pipe.execute()


async def consume_raw(address: Address, watch: StopWatch) -> Lap:
    """XREADGROUP COUNT 100 and one XACK for all of it; nothing is decoded."""
    async with raw_client(address) as raw:
        await raw.xgroup_create(STREAM, GROUP, "0")
        while not watch.done.is_set():
            answer = await raw.xreadgroup(
                GROUP, "c", {STREAM: ">"}, count=READ_COUNT, block=1_000
            )
            for entries in answer.values():
                for chunk in entries:
                    await raw.xack(STREAM, GROUP, *[entry[0] for entry in chunk])
                    watch.count(len(chunk))
        return await watch.lap()


def consume_walrus(*, is_batch: bool) -> Consume:
    """Walrus blocks the thread it runs in, as it does in any program that uses it."""
    import walrus

    async def consume(address: Address, watch: StopWatch) -> Lap:
        database = walrus.Database(host="127.0.0.1", port=address.port)
        group = database.consumer_group(GROUP, [STREAM])
        group.create()
        stream = group.streams[STREAM]
        while not watch.done.is_set():
            messages = stream.read(count=READ_COUNT, block=1_000)
            if is_batch:
                stream.ack(*[message_id for message_id, _ in messages])
                watch.count(len(messages))
                continue
            for message_id, _ in messages:
                stream.ack(message_id)
                watch.count()
        database.close()
        return await watch.lap()

    return consume


# --- all of them --------------------------------------------------------------------


def contenders(*, quick: bool) -> list[Contender]:
    """Return everyone, with backlogs that take each about the same time."""
    share = 4 if quick else 1
    few, some, many = (n // share for n in (8_000, 80_000, 160_000))
    ours, fast, raw = seed_ours, seed_faststream, seed_raw
    walrus_one, walrus_all = (consume_walrus(is_batch=b) for b in (False, True))
    return [
        Contender("ours", "single", ours, consume_ours, some),
        Contender("FastStream", "single", fast, consume_faststream(), few),
        Contender(
            "FastStream, 32 workers",
            "single",
            fast,
            consume_faststream(workers=32),
            few,
        ),
        Contender("walrus", "single", raw, walrus_one, few),
        Contender("ours, 100", "batch", ours, consume_ours_in_batches(100), many),
        Contender("ours, 256", "batch", ours, consume_ours_in_batches(256), many),
        *(
            Contender(
                f"FastStream, {size:,}",
                "batch",
                fast,
                consume_faststream_in_batches(size),
                many,
            )
            for size in FASTSTREAM_BATCHES
        ),
        Contender("redis-py, 100, raw bytes", "batch", raw, consume_raw, many),
        Contender("walrus, 100, raw bytes", "batch", raw, walrus_all, many),
    ]
