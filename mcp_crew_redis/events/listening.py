"""A tail, as its reader knows it."""

from __future__ import annotations

from typing import Protocol

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.streams import StreamName
from mcp_crew_redis.events.kinds import Pattern
from mcp_crew_redis.events.scanning import Place, Raw

__all__ = ["Listener"]


class Listener(Protocol):
    """Who is told of entries.

    Attributes:
        keys: Of the tenant whose events are wanted.
        pattern: Which of its types.
        after: By stream, the last entry that was there before.
    """

    keys: TenantKeys
    pattern: Pattern
    after: dict[bytes, Place]

    def wants(self, name: StreamName) -> bool:
        """Whether the events of a stream are wanted."""
        ...

    def put(self, raw: Raw) -> None:
        """Take in an entry."""
        ...

    def finish(self) -> None:
        """Take note that nothing comes any more."""
        ...
