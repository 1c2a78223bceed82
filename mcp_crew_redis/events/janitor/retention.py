"""Streams are trimmed: up to their groups at first, in the end whatever they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.streams import StreamName, stream_name, tally_key
from mcp_crew_redis.errors import UnavailableError
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.janitor.agenda import MAX_KEYS
from mcp_crew_redis.events.janitor.pace import JanitorPace
from mcp_crew_redis.events.janitor.rounds import now
from mcp_crew_redis.log import get_logger

__all__ = ["OnLost", "Retention"]

log = get_logger(__name__)

LIMIT: Final = 10_000
"""About how many entries of a stream one script removes at most."""
_FAILED: Final = (
    60.0  # seconds after which a key that cannot be worked on is tried again
)
_LATEST: Final = 3_600.0  # seconds after which every stream is looked at again

OnLost = Callable[[str, str, str, int], None]
"""Takes a tenant, a type, a group and how many of its events were lost."""


@dataclass(slots=True)
class _Stream:
    """What is known of a stream."""

    name: StreamName
    soft_ms: int
    hard_ms: int
    swept: float  # when idle consumers were looked for, by the loop's time
    is_late: bool = False  # a new entry would have had its time before the next look
    has_rung: bool = False  # since it was last asked for


class Retention:
    """Trims streams and says what that has cost.

    Args:
        hub: What the rooms of the events share.
        pace: How often and how much.
        on_lost: Told of losses.
    """

    def __init__(self, hub: EventHub, pace: JanitorPace, on_lost: OnLost) -> None:
        self._hub = hub
        self._pace = pace
        self._on_lost = on_lost
        self._streams: dict[bytes, _Stream] = {}
        self._is_told = False  # that there are too many

    def __len__(self) -> int:
        return len(self._streams)

    def is_known(self, key: bytes) -> bool:
        """Whether a stream has been met."""
        return key in self._streams

    def meet(self, key: bytes) -> StreamName | None:
        """Take note of a stream; None for a key that is none, or one too many."""
        held = self._streams.get(key)
        if held is not None:
            return held.name
        name = stream_name(self._hub.keys, key)
        if name is None or self._is_full():
            return None
        ttl = self._hub.store.context.ttl
        soft_ms, hard_ms = self._hub.catalog.retention_ms(name.event_type, ttl)
        self._streams[key] = _Stream(name, soft_ms, hard_ms, now())
        return name

    def _is_full(self) -> bool:
        is_full = len(self._streams) >= MAX_KEYS
        if is_full and not self._is_told:
            self._is_told = True
            log.error("janitor.streams_overflowed", limit=MAX_KEYS)
        return is_full

    def rung(self, key: bytes) -> float | None:
        """Note that a known stream has changed; return after how many seconds to look.

        None: no sooner than it is due anyway, for its first entry is the one it was.
        """
        stream = self._streams[key]
        stream.has_rung = True
        if not stream.is_late:
            return None
        stream.is_late = False
        return stream.soft_ms / 1e3

    def tenant_of(self, key: bytes) -> str | None:
        """Return whose stream it is, if it is known."""
        stream = self._streams.get(key)
        return None if stream is None else stream.name.tenant_id

    def forget(self, key: bytes) -> None:
        """Know nothing of a stream any more."""
        self._streams.pop(key, None)

    def clear(self) -> None:
        """Know nothing of any."""
        self._streams.clear()

    async def work(self, keys: Sequence[bytes]) -> Mapping[bytes, float]:
        """Trim these streams; see `Work`.

        Raises:
            UnavailableError: Redis did not answer.
        """
        known = {key: self._streams[key] for key in keys if key in self._streams}
        calls = [self._call(key, stream) for key, stream in known.items()]
        again: dict[bytes, float] = {}
        replies = await self._hub.port.run_many(calls)
        for (key, stream), reply in zip(known.items(), replies, strict=True):
            if isinstance(reply, UnavailableError):
                again[key] = 1.0
            elif isinstance(reply, Exception):
                again[key] = _FAILED
            elif (seconds := self._trimmed(key, stream, reply)) is not None:
                again[key] = seconds
        return again

    def _call(self, key: bytes, stream: _Stream) -> Call:
        pace, name = self._pace, stream.name
        stream.has_rung = False
        tallies = tally_key(self._hub.keys.tenant(name.tenant_id), "")
        is_sweep = now() - stream.swept >= pace.idle / 2
        if is_sweep:
            stream.swept = now()
        idle_ms, stale_ms = round(pace.idle * 1e3), round(pace.stale * 1e3)
        limits = (stream.soft_ms, stream.hard_ms, LIMIT, idle_ms, stale_ms)
        return "event_trim", (key, tallies), (*limits, int(is_sweep))

    def _trimmed(self, key: bytes, stream: _Stream, reply: list[Any]) -> float | None:
        """Tell what was lost; return when to come back, None for never."""
        _, lost, held_back, next_ms, is_more, stale = reply
        tenant_id, event_type = stream.name[:2]
        for group, count in zip(lost[::2], lost[1::2], strict=True):
            self._on_lost(tenant_id, event_type, _text(group), count)
        for group in stale:
            log.warning(
                "janitor.group_stale",
                tenant=tenant_id,
                type=event_type,
                group=_text(group),
            )
        if next_ms < 0:
            if stream.has_rung:
                return 0.0  # it may be there again
            if self._streams.get(key) is stream:
                self.forget(key)
            return None
        seconds: float = next_ms / 1e3
        stream.is_late = not (is_more or held_back) and next_ms > stream.soft_ms
        if stream.is_late and stream.has_rung:
            # Perhaps that was the trim itself; perhaps an entry that came after it.
            stream.is_late, seconds = False, stream.soft_ms / 1e3
        if held_back:
            # An acknowledgement does not ring: look again, the sooner the shorter
            # the events live.
            seconds = min(seconds, self._pace.recheck, max(0.05, stream.soft_ms / 4e3))
        return min(seconds, _LATEST)


def _text(group: bytes) -> str:
    return group.decode(errors="backslashreplace")
