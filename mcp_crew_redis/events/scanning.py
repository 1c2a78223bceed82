"""Reading streams without a group: which there are, and what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from mcp_crew_redis._core.port import Port
from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.streams import LANES, StreamName, stream_key
from mcp_crew_redis.errors import CrewRedisError, DataError
from mcp_crew_redis.events.decoding import parts_of
from mcp_crew_redis.events.kinds import Pattern
from mcp_crew_redis.events.schemas import EventCatalog
from mcp_crew_redis.store.registry import TenantRegistry

__all__ = ["CHUNK", "ZERO", "Raw", "Scanner", "place_of"]

CHUNK: Final = 256
"""Commands of one round trip."""
ZERO: Final = b"0-0"

Place = tuple[int, int]


class Raw(NamedTuple):
    """An entry as it stands in its stream, not decoded yet.

    Attributes:
        name: The stream.
        place: Its id there.
        head: The packed envelope; None for an entry of somebody else.
        body: The encoded payload; likewise.
    """

    name: StreamName
    place: bytes
    head: bytes | None
    body: bytes | None


def place_of(entry_id: bytes) -> Place:
    """Return an id as numbers, which compare as ids do."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence or b"0")


class Scanner:
    """Reads the streams of tenants.

    Args:
        port: Commands.
        registry: Knows the types of each tenant.
        catalog: Knows into how many partitions a type's lanes are divided.
    """

    def __init__(
        self, port: Port, registry: TenantRegistry, catalog: EventCatalog
    ) -> None:
        self._send_many = port.send_many
        self._types = registry.types
        self._partitions = catalog.partitions

    async def streams(
        self, keys: TenantKeys, pattern: Pattern
    ) -> dict[bytes, StreamName]:
        """Return every stream of the types that are meant, those without entries too.

        Raises:
            UnavailableError: Redis did not answer.
        """
        found: dict[bytes, StreamName] = {}
        for event_type in sorted(await self._types(keys.tenant_id)):
            if not pattern.matches(event_type):
                continue
            # A type that was divided later has entries in its undivided lanes too.
            count = self._partitions(event_type)
            numbers = [None, *range(count)] if count > 1 else [None]
            for lane in range(len(LANES)):
                for number in numbers:
                    key = stream_key(keys, event_type, lane, number)
                    found[key] = StreamName(keys.tenant_id, event_type, lane, number)
        return found

    async def last(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the id of the last entry of each stream that has any.

        Raises:
            UnavailableError: Redis did not answer.
        """
        commands = [("XREVRANGE", key, "+", "-", "COUNT", 1) for key in keys]
        replies = await self._send(commands)
        return {
            key: reply[0][0] for key, reply in zip(keys, replies, strict=True) if reply
        }

    async def pages(
        self, wanted: Sequence[tuple[bytes, bytes, bytes, int]]
    ) -> list[list[tuple[bytes, bytes | None, bytes | None]]]:
        """Return entries of streams: place, envelope and payload of each.

        Args:
            wanted: Of each stream its key, from where, to where, and how many at most.

        Raises:
            UnavailableError: Redis did not answer.
        """
        commands = [
            ("XRANGE", key, low, high, "COUNT", count)
            for key, low, high, count in wanted
        ]
        return [
            [(place, *parts_of(fields)) for place, fields in reply]
            for reply in await self._send(commands)
        ]

    async def generated(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the last id that each stream has ever given, if there is the stream.

        Raises:
            UnavailableError: Redis did not answer.
        """
        replies = await self._send([("XINFO", "STREAM", key) for key in keys])
        found: dict[bytes, bytes] = {}
        for key, reply in zip(keys, replies, strict=True):
            if reply:
                table = reply if isinstance(reply, dict) else _table(reply)
                found[key] = table[b"last-generated-id"]
        return found

    async def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send in chunks; a key that is no stream counts as empty.

        Raises:
            UnavailableError: Redis did not answer, or refuses one of them.
        """
        replies: list[Any] = []
        for at in range(0, len(commands), CHUNK):
            replies += await self._send_many(commands[at : at + CHUNK])
        for at, reply in enumerate(replies):
            if isinstance(reply, DataError):
                replies[at] = []
            elif isinstance(reply, CrewRedisError):
                raise reply
        return replies


def _table(reply: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(reply[::2], reply[1::2], strict=True))
