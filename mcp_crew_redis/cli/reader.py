"""The demo's second process: reads what the first has stored, is rung, and works.

`python -m mcp_crew_redis.cli.reader '{"socket": ...}'`; `dialogue.py` says what it
hears and tells. It knows nothing of what was stored but the names of the tenants.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mcp_crew_redis._core.bell import BellListener
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis.cli.agents import BOARD, Agents, Work
from mcp_crew_redis.cli.dialogue import Assignment, Order, Readings, Ring, message
from mcp_crew_redis.cli.failure import Steps, reason_of
from mcp_crew_redis.cli.items import TYPES, Reading, digest_of
from mcp_crew_redis.cli.subscribers import second_subscribers
from mcp_crew_redis.cli.talk import Desk
from mcp_crew_redis.clock import Clock, SystemClock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.services import EventConsumer
from mcp_crew_redis.settings import CrewSettings
from mcp_crew_redis.tenant import Tenant
from mcp_crew_redis.types import DataType

__all__ = ["main"]

_BELL_TIMEOUT = 10.0
_MAX_HEARD = 10_000
_MAX_ORDERS = 16


@dataclass(frozen=True, slots=True)
class _Heard:
    key: bytes
    at: float


class _Ear(BellListener):
    """Notes what the bell tells, with the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._put, self.heard = anyio.create_memory_object_stream[_Heard](_MAX_HEARD)
        self.is_listening = anyio.Event()

    def on_healthy(self) -> None:
        self.is_listening.set()

    def on_keys(self, keys: Sequence[bytes]) -> None:
        at = self._clock.wall()
        for key in keys:
            self._put.send_nowait(_Heard(key, at))

    def close(self) -> None:
        """Give the stream back."""
        self._put.close()
        self.heard.close()


def main(arguments: Sequence[str]) -> int:
    """Do what the assignment says until standard input ends; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("started by the demo, with one argument\n")
        return 2
    try:
        anyio.run(_work, Assignment.from_json(arguments[0]))
    except Exception as error:
        reason = reason_of(error)
        if reason is None:
            raise  # a fault of ours: its traceback is what helps
        sys.stderr.write(f"{reason}\n")
        return 1
    return 0


async def _work(task: Assignment) -> None:
    put, orders = anyio.create_memory_object_stream[Order](_MAX_ORDERS)
    with put, orders:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hear_orders, put, tasks.cancel_scope)
            await _read_and_listen(task, SystemClock(), orders)


async def _hear_orders(
    put: MemoryObjectSendStream[Order], scope: anyio.CancelScope
) -> None:
    """Pass orders on; the end of input is the end: whoever started us closed it."""
    file, rest = sys.stdin.fileno(), b""
    while True:
        await anyio.wait_readable(file)
        data = os.read(file, 4_096)
        if not data:
            scope.cancel()
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            await put.send(Order(line.decode()))


async def _read_and_listen(
    task: Assignment, clock: Clock, orders: MemoryObjectReceiveStream[Order]
) -> None:
    settings = CrewSettings(
        unix_socket=Path(task.socket), db=task.db, prefix=task.prefix, start="strict"
    )
    ear, keys = _Ear(clock), KeySpace(task.prefix)
    desk = Desk(process="second", clock=clock)
    listeners = second_subscribers(desk, task.tenants)
    try:
        async with CrewRedis(settings, services=[EventConsumer(listeners)]) as crew:
            desk.crew = crew
            # First the ear, then the look: nothing changes unheard in between.
            with crew.bell.listen(keys.namespace_prefix(DataType.KNOWLEDGE), ear):
                with Steps() as steps:
                    steps.begin("listening to the bell", _BELL_TIMEOUT)
                    await ear.is_listening.wait()
                found: Readings = {}
                for tenant_id in task.tenants:
                    await _read_all(crew.tenant(tenant_id), clock, found)
                _say(message(read=found))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_tell_rings, crew, keys, ear.heard)
                    await _obey(crew, task, desk, orders)
    finally:
        ear.close()


async def _read_all(tenant: Tenant, clock: Clock, found: Readings) -> None:
    """Read every value of a tenant, found by its type alone."""
    for data_type in TYPES:
        async for identifier in tenant.scan(data_type):
            began = clock.monotonic()
            value = await _read(tenant, data_type, identifier)
            took = (clock.monotonic() - began) * 1e6
            found[tenant.id, data_type.value, identifier] = Reading(
                digest=digest_of(value),
                ttl=await tenant.ttl(data_type, identifier),
                read_us=took,
            )


async def _read(tenant: Tenant, data_type: DataType, identifier: str) -> object:
    if data_type is DataType.COUNTER:
        return await tenant.increment(data_type, identifier, 0)
    return await tenant.get(data_type, identifier)


async def _obey(
    crew: CrewRedis,
    task: Assignment,
    desk: Desk,
    orders: MemoryObjectReceiveStream[Order],
) -> None:
    """Carry out orders; agents go on working while the next ones are heard."""
    agents = Agents(
        crew=crew,
        tenants=task.tenants,
        process=desk.process,
        clock=desk.clock,
        desk=desk,
    )
    async with anyio.create_task_group() as tasks:
        async for order in orders:
            work = Work()
            if order is Order.WORK:
                tasks.start_soon(agents.work)
            elif order is Order.BOARD:
                await agents.write_board(BOARD, edition=1)
            elif order is Order.TELL:
                work = Work(talk=desk.talk)
            else:
                work = await agents.finish()
            _say(message(done=work))


async def _tell_rings(
    crew: CrewRedis, keys: KeySpace, heard: MemoryObjectReceiveStream[_Heard]
) -> None:
    async for one in heard:
        key = keys.parse(one.key)
        if key is None:
            continue  # nobody of ours wrote that
        entry = await crew.tenant(key.tenant).get_entry(
            DataType.KNOWLEDGE, key.identifier
        )
        digest = "" if entry is None else digest_of(entry.value)
        _say(
            message(
                rung=Ring(
                    tenant_id=key.tenant,
                    identifier=key.identifier,
                    heard_at=one.at,
                    digest=digest,
                )
            )
        )


def _say(line: str) -> None:
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(1)  # nobody hears us any more, nor would they the exit's complaint


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
