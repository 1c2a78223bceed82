"""One process of an event run: publishes or handles, and writes down what became of it.

The argument is one JSON object: the `role` (publisher or consumer), the crew's
`settings`, the `log` to write, and the `load`; see `Load`. A line on standard input
asks for a line of statistics, its end for a graceful end: publishers drain.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import structlog

from mcp_crew_redis import (
    CrewRedis,
    CrewSettings,
    OperationTimeoutError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis._core.backoff import Backoff
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.outcomes import BatchOutcome, Reject, Retry
from mcp_crew_redis.events.subscriptions import Subscriptions
from mcp_crew_redis.services import EventConsumer
from tests.faults.event_chaos_load import Load
from tests.faults.outage_log import CallLog

GROUP = "chaos"
DRAIN = 30.0


class Publisher:
    """Publishes one event after the other.

    Args:
        crew: Where.
        log: What it writes to.
        load: What.
        name: Of this process and caller; events of everybody begin with `all`.
    """

    def __init__(self, crew: CrewRedis, log: CallLog, load: Load, name: str) -> None:
        self._crew, self._log, self._load, self._name = crew, log, load, name
        self._number = 0
        self._caller = name.rpartition(".")[2]
        self._time = asyncio.get_running_loop().time

    async def publish(self) -> None:
        """Publish the next event, to one tenant or to each."""
        self._number += 1
        load, name = self._load, f"{self._name}-{self._number}"
        if load.is_same or (load.shared and self._number % load.shared == 0):
            name = f"all.{self._caller}-{self._number}"
        if load.is_same:
            for number in range(load.tenants):
                await self._publish(f"t{number}", name)
        else:
            await self._publish(load.place(name)[0], name)

    async def _publish(self, tenant_id: str, name: str) -> None:
        _, event_type, priority, key = self._load.place(name)
        is_own = not name.startswith("all.")
        is_plain = is_own and self._load.is_one((tenant_id, name), self._load.plain)
        payload = {"tenant": tenant_id, "type": event_type, "name": name}
        number = self._log.begin(
            tenant=tenant_id, id=name, plain=is_plain, start=self._time()
        )
        told: dict[str, object] = {}
        try:
            receipt = await self._crew.events.of(tenant_id).publish(
                event_type,
                payload,
                priority=priority,
                key=key,
                event_id=name,
                idempotent=not is_plain,
            )
        except UnavailableError as error:
            told["outcome"] = "unknown" if _may_have_happened(error) else "unsent"
            told["error"] = type(error).__name__
        else:
            told["outcome"] = receipt.outcome.name.lower()
            told["place"] = receipt.stream_id
            told["duplicate"] = receipt.is_duplicate
        self._log.line(n=number, end=self._time(), **told)


def _may_have_happened(error: UnavailableError) -> bool:
    if isinstance(error, OperationTimeoutError):
        return error.sent
    return isinstance(error, OutcomeUnknownError)


class Handler:
    """Works for a while, writes down what it has handled, and only then returns."""

    def __init__(self, log: CallLog, load: Load) -> None:
        self._log, self._load = log, load
        self._time = asyncio.get_running_loop().time

    async def handle(self, event: Event[Any]) -> None:
        """Handle one event: fail, die, or write a line."""
        load, name, since = self._load, event.id, self._time()
        self._check(event)
        whole = event.tenant_id, name
        if load.deadly:  # for whoever looks for what went wrong
            told = {"begun": name, "tenant": event.tenant_id}
            self._log.line(**told, count=event.delivery_count, at=self._time())
        if load.is_one(whole, load.deadly):
            self._log.line(
                died=name, tenant=event.tenant_id, count=event.delivery_count
            )
            os._exit(9)
        number = crc32(name.encode())
        if load.work:
            await asyncio.sleep(number % 1_000 / 1_000_000 * load.work)
        if load.is_one(whole, load.raising):
            self._log.line(raised=name, tenant=event.tenant_id)
            raise ValueError(name)
        self._log.line(
            handled=name,
            tenant=event.tenant_id,
            type=event.type,
            lane=int(event.priority),
            place=event.stream_id,
            count=event.delivery_count,
            key=event.key,
            since=since,
            at=self._time(),
        )

    def _check(self, event: Event[Any]) -> None:
        """Nothing of an event is another's: it says itself whose it is."""
        told = event.payload
        tenant_id, event_type, priority, key = self._load.place(event.id)
        expected = (
            *(tenant_id or told["tenant"], event_type, priority, key),
            *(event.tenant_id, event.type, event.id),
        )
        found = (
            *(event.tenant_id, event.type, event.priority, event.key),
            *(told["tenant"], told["type"], told["name"]),
        )
        if expected != found:
            self._log.line(crossed=event.id, expected=expected, found=found)


# --- the process ----------------------------------------------------------------------


class Lines:
    """Counts what is logged, by event."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, _logger: Any, _method: str, event: dict[str, Any]) -> Any:
        self.counts[event["event"]] += 1
        sys.stderr.write(json.dumps(event, default=str) + "\n")
        raise structlog.DropEvent


def _spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def consume(config: dict[str, Any], log: CallLog, lines: Lines) -> None:
    """Handle events until told to end."""
    load = Load(**config["load"])
    subscriptions = Subscriptions()
    handler = Handler(log, load)
    subscriptions.on(
        ">",
        group=GROUP,
        claim_after=load.claim_after,
        max_deliveries=load.max_deliveries,
        concurrency=load.concurrency,
        ordering="key" if load.partitions else None,
        backoff=Backoff(base=0.02, maximum=0.1),
        dedup=load.dedup,
        batch=load.batch > 0,
        batch_size=max(1, load.batch),
    )(_as_batch_function(handler) if load.batch else _as_function(handler))
    consumer = EventConsumer(subscriptions)

    def tell() -> None:
        (told,) = consumer.statistics()
        log.line(
            statistics={name: getattr(told, name) for name in told.__slots__},
            lines=lines.counts,
            spent=_spent(),
            at=asyncio.get_running_loop().time(),
        )

    settings = CrewSettings(**config["settings"])
    services = [consumer]
    async with CrewRedis(settings, services=services, event_catalog=load.catalog):
        log.line(ready=True)
        await told_to_end(tell)
    tell()


def _as_function(handler: Handler) -> Any:
    async def handle(event: Event[Any]) -> None:
        await handler.handle(event)

    return handle


def _as_batch_function(handler: Handler) -> Any:
    async def handle(events: list[Event[Any]]) -> BatchOutcome:
        tenants = {event.tenant_id for event in events}
        assert len(tenants) == 1, tenants
        outcomes: dict[str, Retry | Reject] = {}
        for event in events:
            try:
                await handler.handle(event)
            except ValueError as error:
                outcomes[event.id] = Retry(reason=str(error))
        return outcomes

    return handle


async def publish(config: dict[str, Any], log: CallLog, lines: Lines) -> None:
    """Publish until told to end, then drain."""
    load, name = Load(**config["load"]), Path(config["log"]).stem
    is_over = asyncio.Event()

    async def work(publisher: Publisher) -> None:
        while not is_over.is_set():
            await publisher.publish()
            await asyncio.sleep(load.pause)

    settings = CrewSettings(**config["settings"])
    async with CrewRedis(settings, event_catalog=load.catalog) as crew:
        log.line(ready=True)
        async with asyncio.TaskGroup() as group:
            for at in range(load.callers):
                group.create_task(work(Publisher(crew, log, load, f"{name}.{at}")))
            await told_to_end(lambda: None)
            is_over.set()
        is_drained = True
        try:
            await crew.journal.drained(DRAIN)
        except OperationTimeoutError:
            is_drained = False
        journal = crew.journal.statistics().as_dict()
        log.line(statistics={"drained": is_drained, **journal}, lines=lines.counts)


async def told_to_end(tell: Any) -> None:
    """Return at the end of standard input; call `tell` for each line."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.readline():
        tell()
    transport.close()


async def main(config: dict[str, Any]) -> None:
    """Be what the configuration says."""
    log, lines = CallLog(Path(config["log"])), Lines()
    structlog.configure(processors=[lines])
    await {"publisher": publish, "consumer": consume}[config["role"]](
        config, log, lines
    )
    log.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
