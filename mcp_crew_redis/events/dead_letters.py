"""What a group could not handle: looked at, given back, thrown away."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from mcp_crew_redis._wire.keys import STREAM_NAMESPACE, TenantKeys
from mcp_crew_redis._wire.streams import dead_key, stream_name
from mcp_crew_redis.errors import CodecError, DataError
from mcp_crew_redis.events.calls import JOURNAL
from mcp_crew_redis.events.decoding import Decoder
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.kinds import check_group
from mcp_crew_redis.events.making import moment

__all__ = ["MAX_LISTED", "DeadLetter", "DeadLetters"]

MAX_LISTED: Final = 10_000
PAGE: Final = 100
"""Letters of one round trip."""

_PLACE: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_ABOUT: Final = b"_"  # fields of ours beside those of the entry begin so

_Page = list[tuple[bytes, list[bytes]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One event that was given up.

    Attributes:
        id: Its place among the dead letters of its group.
        event: The event; None where its bytes are none.
        reason: Why it was given up, at most 500 characters.
        attempts: How often it was delivered to the group.
        failed_at: When it was given up, in UTC.
        event_type: What it says it is; empty where that is not known.
        stream_id: Its place in the stream it came from.
        raw: The fields of its entry as they were.
    """

    id: str
    event: Event[Any] | None
    reason: str
    attempts: int
    failed_at: datetime
    event_type: str
    stream_id: str
    raw: Mapping[bytes, bytes] = field(repr=False)


class DeadLetters:
    """The dead letters of one group of one tenant. Cheap to make, holds nothing.

    Redis keeps the last 100,000 for 7 days after the latest.

    Args:
        hub: What the rooms of the events share.
        keys: The tenant's.
        group: Whose; "-" for what waited too long in the journal.

    Raises:
        InvalidIdentifierError: The group's name is not one.
    """

    __slots__ = ("_decoder", "_hub", "_key", "_keys", "_streams", "group")

    def __init__(self, hub: EventHub, keys: TenantKeys, group: str) -> None:
        self.group = group if group == JOURNAL else check_group(group)
        self._hub = hub
        self._keys = keys
        self._key = dead_key(keys, self.group)
        self._streams = keys.key(STREAM_NAMESPACE, "-")[:-1]
        self._decoder = Decoder(hub.codec, hub.catalog)

    def __repr__(self) -> str:
        return f"<DeadLetters {self._keys.tenant_id} {self.group}>"

    async def list(
        self, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        """Return dead letters, the oldest first.

        Args:
            limit: How many at most, 1 to 10,000.
            after: Only those after the one with this id: for the next page.

        Raises:
            DataError: `limit` is out of range, or `after` no id.
            UnavailableError: Redis did not answer.
        """
        if type(limit) is not int or not 1 <= limit <= MAX_LISTED:
            raise DataError(f"limit is an integer from 1 to {MAX_LISTED}")
        start = "-" if after is None else f"({_place(after)}"
        found: list[DeadLetter] = []
        async for page in self._pages(start, "+"):
            found += [self._letter(entry_id, fields) for entry_id, fields in page]
            if len(found) >= limit:
                break
        return found[:limit]

    async def replay(self, ids: Iterable[str] | None = None) -> int:
        """Give dead letters back to the streams they came from; return how many.

        Each becomes a new entry with the same event id, and every group of the stream
        gets it: one that had handled it before gets it again, unless it remembers what
        it has handled (`dedup=True`). What is no event of ours stays. A letter leaves
        in the step in which its entry comes back, so a call that was cut short may be
        repeated.

        Args:
            ids: Of letters; None for all that there are when this is called.

        Raises:
            DataError: An id is none.
            UnavailableError: Redis did not answer; some may have been given back.
        """
        count = 0
        async for names in self._names(ids):
            args = (self._streams, *names)
            count += await self._hub.port.run(
                "event_revive", (self._key,), args, is_repeatable=True
            )
        if count:
            self._hub.used()
        return count

    async def purge(self, ids: Iterable[str] | None = None) -> int:
        """Throw dead letters away; return how many.

        Args:
            ids: Of letters; None for all that there are when this is called.

        Raises:
            DataError: An id is none.
            UnavailableError: Redis did not answer; some may be gone.
        """
        port = self._hub.port
        if ids is None:
            trim = ("XTRIM", self._key, "MAXLEN", "=", 0)
            return int(await port.send(*trim, is_repeatable=True))
        count = 0
        async for names in self._names(ids):
            deletion = ("XDEL", self._key, *names)
            count += int(await port.send(*deletion, is_repeatable=True))
        return count

    # --- pages --------------------------------------------------------------------

    async def _names(
        self, ids: Iterable[str] | None
    ) -> AsyncIterator[Sequence[bytes | str]]:
        """Give the ids that are meant, page by page."""
        if ids is not None:
            given = [_place(each) for each in ([ids] if isinstance(ids, str) else ids)]
            for start in range(0, len(given), PAGE):
                yield given[start : start + PAGE]
            return
        newest = await self._hub.port.send(
            "XREVRANGE", self._key, "+", "-", "COUNT", 1, is_repeatable=True
        )
        if newest:
            # What fails again comes behind: it is not given back twice.
            async for page in self._pages("-", newest[0][0]):
                yield [entry_id for entry_id, _ in page]

    async def _pages(
        self, start: bytes | str, end: bytes | str
    ) -> AsyncIterator[_Page]:
        while True:
            command = ("XRANGE", self._key, start, end, "COUNT", PAGE)
            page = await self._hub.port.send(*command, is_repeatable=True)
            if page:
                yield [(entry_id, fields) for entry_id, fields in page]
            if len(page) < PAGE:
                return
            start = b"(" + page[-1][0]

    def _letter(self, entry_id: bytes, fields: Sequence[bytes]) -> DeadLetter:
        table = dict(zip(fields[::2], fields[1::2], strict=False))
        raw = {name: each for name, each in table.items() if name[:1] != _ABOUT}
        name = stream_name(self._hub.keys, table.get(b"_s", b""))
        place, attempts = table.get(b"_i", b""), _number(table.get(b"_n"))
        event: Event[Any] | None = None
        if name is not None and name.tenant_id == self._keys.tenant_id:
            flat = [part for pair in raw.items() for part in pair]
            try:
                event = self._decoder.entry(name, place, flat, attempts)
            except CodecError:
                event = None  # that may be why it is here
        return DeadLetter(
            id=entry_id.decode(),
            event=event,
            reason=table.get(b"_r", b"").decode(errors="replace"),
            attempts=attempts,
            failed_at=moment(_number(table.get(b"_t"))),
            event_type="" if name is None else name.event_type,
            stream_id=place.decode(errors="replace"),
            raw=raw,
        )


def _place(text: object) -> str:
    if not isinstance(text, str) or _PLACE.fullmatch(text) is None:
        raise DataError("the id of a dead letter has the form <milliseconds>-<number>")
    return text


def _number(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0
