"""Agents at work in one process: they write, read it back, and note what became of it.

They do not know whether Redis is there. What they note is all that the demo's last
check knows of what should stand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import anyio

from mcp_crew_redis.cli.history import Name, Write
from mcp_crew_redis.cli.talk import Desk, Said, Talk
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.kinds import EventPriority, EventType
from mcp_crew_redis.types import DataType

__all__ = ["BOARD", "COUNTED", "Agents", "Reads", "Work"]

BOARD = tuple(f"board:{number}" for number in range(1, 13))
"""What agents of every process write: the rest is one agent's own."""
COUNTED = "steps"
"""The counter that the agents of all processes of a tenant share."""
_AGENTS = ("planner", "searcher")
_PLANS = 4
_PAUSE = 0.01
_EVERY = 5
_MEASURED = 10
_MAX_STEPS = 1_000
_DRAIN_TIMEOUT = 10.0


@dataclass(slots=True, kw_only=True)
class Reads:
    """What the agents read of what they had just written.

    Attributes:
        right: Found as it was written.
        wrong: Found otherwise.
        refused: Not answered, since only Redis could have known.
    """

    right: int = 0
    wrong: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the agents of one process did, and what its journal tells of it.

    Attributes:
        writes: Their writes.
        reads: Their reads.
        journal: `JournalStatistics.as_dict()`, once nothing waited any more.
        drained_at: When that was, by the clock that all processes share.
        talk: Their events, when that is what was asked for.
    """

    writes: list[Write] = field(default_factory=list)
    reads: Reads = field(default_factory=Reads)
    journal: dict[str, Any] = field(default_factory=dict)
    drained_at: float = 0.0
    talk: Talk = field(default_factory=Talk)

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Take one that has been JSON."""
        writes = [Write(**one | {"name": tuple(one["name"])}) for one in said["writes"]]
        reads, talk = Reads(**said["reads"]), Talk.of(said["talk"])
        return cls(**{**said, "writes": writes, "reads": reads, "talk": talk})


@dataclass(slots=True, kw_only=True)
class Agents:
    """The agents of one process.

    Attributes:
        crew: Theirs.
        tenants: For whom each of them works.
        process: What tells their values from those of other processes.
        clock: Time; `monotonic` is the same for all processes of a machine.
        desk: Where they publish.
        writes: What they have written so far.
        reads: What they have read of it.
    """

    crew: CrewRedis
    tenants: tuple[str, ...]
    process: str
    clock: Clock
    desk: Desk
    writes: list[Write] = field(default_factory=list)
    reads: Reads = field(default_factory=Reads)
    _is_stopped: bool = False
    _ended: anyio.Event = field(default_factory=anyio.Event)

    async def work(self) -> None:
        """Work until `stop`, at most 1,000 steps each; a step is always finished."""
        async with anyio.create_task_group() as tasks:
            for tenant_id in self.tenants:
                for agent in _AGENTS:
                    tasks.start_soon(self._work, tenant_id, agent)
        self._ended.set()

    def stop(self) -> None:
        """Let every agent end its step."""
        self._is_stopped = True

    async def finish(self) -> Work:
        """Stop, wait until the journal is empty, and tell all; once `work` is called.

        Raises:
            OperationTimeoutError: Something still waits in the journal after 10 s.
        """
        self.stop()
        await self._ended.wait()
        await self.crew.journal.drained(_DRAIN_TIMEOUT)
        return Work(
            writes=self.writes,
            reads=self.reads,
            journal=self.crew.journal.statistics().as_dict(),
            drained_at=self.clock.monotonic(),
        )

    async def write_board(self, names: Sequence[str], edition: int) -> None:
        """Write names that other processes write too, for every tenant; tell of it."""
        for tenant_id in self.tenants:
            for name in names:
                value = f"{edition} by {self.process}"
                if await self._set(tenant_id, name, value):
                    told = {"name": name, "edition": edition}
                    await self.desk.say(tenant_id, EventType.KNOWLEDGE_UPDATED, told)

    async def alert(self, what: str) -> list[Said]:
        """Raise an alert for every tenant."""
        return [
            await self.desk.say(
                tenant_id,
                EventType.ALERT_RAISED,
                {"what": what},
                priority=EventPriority.CRITICAL,
            )
            for tenant_id in self.tenants
        ]

    async def _work(self, tenant_id: str, agent: str) -> None:
        for step in range(_MAX_STEPS):
            if self._is_stopped:
                return
            name = f"{self.process}:{agent}:{step % _PLANS}"
            value = f"step {step} of {agent}"
            if await self._set(tenant_id, name, value):
                await self._read(tenant_id, name, value)
            if step % _EVERY == 0 and await self._delete(tenant_id, name):
                await self._read(tenant_id, name, None)
            await self._count(tenant_id)
            if step % _MEASURED == 0:
                await self._measure(tenant_id, agent, step)
            await self.clock.sleep(_PAUSE)

    async def _measure(self, tenant_id: str, agent: str, step: int) -> None:
        await self.desk.say(
            tenant_id,
            EventType.TELEMETRY_SAMPLED,
            {"agent": agent, "step": step},
            priority=EventPriority.LOW,
        )

    # --- one call ---------------------------------------------------------------------

    async def _set(self, tenant_id: str, name: str, value: str) -> bool:
        tenant = self.crew.tenant(tenant_id)
        return await self._note(
            (tenant_id, DataType.STATE.value, name),
            value,
            lambda: tenant.set(DataType.STATE, name, value),
        )

    async def _delete(self, tenant_id: str, name: str) -> bool:
        tenant = self.crew.tenant(tenant_id)
        return await self._note(
            (tenant_id, DataType.STATE.value, name),
            None,
            lambda: tenant.delete(DataType.STATE, name),
        )

    async def _count(self, tenant_id: str) -> None:
        tenant = self.crew.tenant(tenant_id)
        await self._note(
            (tenant_id, DataType.COUNTER.value, COUNTED),
            1,
            lambda: tenant.increment(DataType.COUNTER, COUNTED),
        )

    async def _note(
        self, name: Name, value: str | int | None, call: Callable[[], Awaitable[object]]
    ) -> bool:
        """Make a call, write down when and what it said; return whether it is done."""
        began, outcome = self.clock.monotonic(), "failed"
        with suppress(CrewRedisError):
            told = await call()
            outcome = "counted" if isinstance(told, int) else str(told)
        self.writes.append(
            Write(
                name=name,
                value=value,
                began=began,
                ended=self.clock.monotonic(),
                outcome=outcome,
            )
        )
        return outcome != "failed"

    async def _read(self, tenant_id: str, name: str, value: str | None) -> None:
        try:
            found = await self.crew.tenant(tenant_id).get(DataType.STATE, name)
        except CrewRedisError:
            self.reads.refused += 1
        else:
            self.reads.right += found == value
            self.reads.wrong += found != value
