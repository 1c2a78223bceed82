"""What the rooms of the events share in one running crew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from mcp_crew_redis._core.bell import Bell
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.events.schemas import EventCatalog
from mcp_crew_redis.store.store import Store

__all__ = ["EventHub"]


@dataclass(frozen=True, slots=True, eq=False)
class EventHub:
    """The parts that publishers, consumers and the janitor need.

    Attributes:
        store: Registry, fallback, journal, replay window and what they stand on.
        bell: Tells which streams grew.
        catalog: What is agreed on about types.
        random: Jitter.
        on_used: Called when this process publishes or consumes for the first time:
            the janitor sleeps until then.
    """

    store: Store
    bell: Bell
    catalog: EventCatalog
    random: Random = field(default_factory=Random)
    on_used: list[Callable[[], None]] = field(default_factory=list)

    @property
    def port(self) -> Port:
        """Commands and scripts."""
        return self.store.context.port

    @property
    def keys(self) -> KeySpace:
        """The only builder of keys."""
        return self.store.keys

    @property
    def codec(self) -> MsgpackCodec:
        """Payloads to bytes and back."""
        return self.store.context.codec

    @property
    def clock(self) -> Clock:
        """Local time."""
        return self.store.context.clock

    def used(self) -> None:
        """Tell that this process has to do with events."""
        while self.on_used:
            self.on_used.pop()()
