"""What the agents of one process say by events and hear of others, with notes of both.

The notes are all that the demo's last count of events knows: it is compared with what
stands in the streams, and nothing in between is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

from mcp_crew_redis.cli.items import Item
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventPriority, EventType
from mcp_crew_redis.types import DataType

__all__ = ["Desk", "Heard", "Said", "Talk"]

Payload = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One event that an agent has published.

    Attributes:
        event_id: Its name.
        process: Whose agent.
        tenant_id: For whom.
        type: What has happened.
        lane: Its priority, 0 for critical.
        began: When publishing began, in seconds of the clock that all processes share.
        ended: When that returned or failed.
        outcome: stored, deferred or failed; failed may have happened.
    """

    event_id: str
    process: str
    tenant_id: str
    type: str
    lane: int
    began: float
    ended: float
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One call of a subscriber.

    Attributes:
        group: Its group.
        event_id: Of what it was called with.
        tenant_id: Whose that was, by its stream.
        meant_for: Whose it was, by its publisher's own words.
        delivery: How often the group has had it, this time included.
        at: When the call ended, in seconds of the shared clock.
        failure: What it raised; empty when it has handled the event.
    """

    group: str
    event_id: str
    tenant_id: str
    meant_for: str
    delivery: int
    at: float
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """The notes of one process.

    Attributes:
        said: What its agents have published.
        heard: What its subscribers were called with.
    """

    said: list[Said] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Take one that has been JSON."""
        return cls(
            said=[Said(**one) for one in said["said"]],
            heard=[Heard(**one) for one in said["heard"]],
        )

    def __add__(self, other: Talk) -> Talk:
        return Talk(said=self.said + other.said, heard=self.heard + other.heard)


@dataclass(slots=True, kw_only=True)
class Desk:
    """Where the agents of one process publish, and its subscribers note what they hear.

    Attributes:
        process: What tells its events from those of other processes.
        clock: Time; `monotonic` is the same for all processes of a machine.
        crew: Theirs, while it runs: subscribers are declared before it does.
        talk: The notes.
    """

    process: str
    clock: Clock
    crew: CrewRedis | None = None
    talk: Talk = field(default_factory=Talk)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    async def say(
        self,
        tenant_id: str,
        event_type: str,
        payload: Payload,
        *,
        priority: EventPriority = EventPriority.NORMAL,
        event_id: str | None = None,
    ) -> Said:
        """Publish an event, once under its name whatever becomes of a reply; note it.

        Args:
            tenant_id: For whom.
            event_type: What has happened.
            payload: What there is to say of it.
            priority: Its lane.
            event_id: Its name; the next number of this process without one.
        """
        assert self.crew is not None, "agents talk while their crew runs"
        name = event_id or f"{self.process}-{next(self._numbers)}"
        began, outcome = self.clock.monotonic(), "failed"
        with suppress(CrewRedisError):
            receipt = await self.crew.tenant(tenant_id).events.publish(
                event_type,
                payload | {"tenant": tenant_id},
                priority=priority,
                event_id=name,
                source=self.process,
                idempotent=True,
            )
            outcome = str(receipt.outcome)
        said = Said(
            event_id=name,
            process=self.process,
            tenant_id=tenant_id,
            type=str(event_type),
            lane=int(priority),
            began=began,
            ended=self.clock.monotonic(),
            outcome=outcome,
        )
        self.talk.said.append(said)
        return said

    async def say_of(self, item: Item) -> None:
        """Publish what an item that has been stored means to others, if anything."""
        if item.data_type is DataType.TOOLS:
            assert isinstance(item.value, dict)
            for tool in item.value["tools"]:
                found = {"server": item.identifier, "tool": tool["name"]}
                await self.say(item.tenant_id, EventType.TOOL_DISCOVERED, found)
        elif item.data_type is DataType.KNOWLEDGE:
            assert isinstance(item.value, dict)
            written = {"name": item.identifier, "edition": item.value["edition"]}
            await self.say(item.tenant_id, EventType.KNOWLEDGE_UPDATED, written)

    def note(self, group: str, event: Event[Payload], failure: str = "") -> None:
        """Write down that a subscriber has handled an event, or what it raised."""
        self.talk.heard.append(
            Heard(
                group=group,
                event_id=event.id,
                tenant_id=event.tenant_id,
                meant_for=str(event.payload["tenant"]),
                delivery=event.delivery_count,
                at=self.clock.monotonic(),
                failure=failure,
            )
        )
