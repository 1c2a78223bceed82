"""Who else serves a subscription, and which partitions are this process's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from typing import Final

from mcp_crew_redis.errors import CrewRedisError, UnavailableError
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.shares import Shares
from mcp_crew_redis.events.subscriptions import AllTenants, Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Presence"]

log = get_logger(__name__)

MAX_BEAT: Final = 2.0
"""Seconds between them at most: each also looks who is missing."""
BEATS: Final = 3
"""Signs of life in one `claim_after`."""
HANDOVER: Final = 0.02
"""Seconds between looks whether a partition is free of work in this process."""


class Presence:
    """Shows that this consumer lives, and learns who does not any more.

    Args:
        hub: The parts.
        subscription: What is shared, by its group and pattern.
        consumer: This one's name.
        on_gone: Called when another one has gone.
        on_gained: Called with partitions that are this one's from now on.
        release: Gives back what waits in this process of partitions that go.
        is_busy: Whether anything of a partition is still in this process.
    """

    def __init__(
        self,
        hub: EventHub,
        subscription: Subscription,
        consumer: str,
        *,
        on_gone: Callable[[], None],
        on_gained: Callable[[frozenset[int]], None],
        release: Callable[[frozenset[int]], Awaitable[None]],
        is_busy: Callable[[int], bool],
    ) -> None:
        self._clock = hub.clock
        self._interval = min(subscription.claim_after / BEATS, MAX_BEAT)
        is_ordered = subscription.ordering is not None
        self._count = (
            hub.catalog.most_partitions(subscription.pattern) if is_ordered else 0
        )
        name = f"{subscription.group}:{subscription.pattern.text}{_whose(subscription)}"
        self._shares = Shares(
            *(hub.port, hub.keys.shares(name), consumer),
            *(subscription.claim_after, self._count, hub.clock),
        )
        self._on_gone, self._on_gained = on_gone, on_gained
        self._release, self._is_busy = release, is_busy
        self._wake = asyncio.Event()
        self.hasten = self._wake.set
        self._members: frozenset[str] = frozenset()
        self._read: frozenset[int] = frozenset()  # owned, and not to be given up

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that are read here."""
        return tuple(sorted(self._read & self._shares.owned))

    @property
    def is_divided(self) -> bool:
        """Whether partitions are read by one process each."""
        return self._count > 0

    def may_read(self, partition: int | None) -> bool:
        """Whether streams of a partition are read here now; those without always."""
        if partition is None or not self._count:
            return True
        return partition in self._read and partition in self._shares.owned

    async def run(self) -> None:
        """Show signs of life for as long as it is not cancelled."""
        while True:
            try:
                leaving = await self._beat()
                if leaving:
                    await self._hand_over(leaving)
            except UnavailableError:
                pass  # it will be shown again; what is owned lapses by itself
            except CrewRedisError as error:
                log.warning("consumer.presence_refused", error=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
            self._wake.clear()

    async def _beat(self) -> frozenset[int]:
        """Renew; return partitions that are to be given up."""
        self._read &= self._shares.owned  # what has lapsed is gained anew
        held = await self._shares.hold()
        if self._members - held.members:
            self._on_gone()
        self._members = held.members
        leaving = frozenset(sorted(held.owned)[len(held.owned) - held.surplus :])
        wanted = held.owned - leaving
        gained = wanted - self._read
        self._read = wanted
        if gained:
            self._on_gained(gained)
        return leaving

    async def _hand_over(self, leaving: frozenset[int]) -> None:
        """Give partitions up as soon as nothing of them is worked on here."""
        await self._release(leaving)
        until = self._clock.monotonic() + self._interval
        while any(self._is_busy(number) for number in leaving):
            if self._clock.monotonic() >= until:
                break  # those that are free go now, the others with the next beat
            await self._clock.sleep(HANDOVER)
        free = [number for number in leaving if not self._is_busy(number)]
        if free:
            held = await self._shares.hold(give_up=free)
            self._members = held.members

    async def leave(self) -> None:
        """Be no consumer any more.

        Raises:
            UnavailableError: Redis did not answer; the others will notice.
        """
        await self._shares.leave()


def _whose(subscription: Subscription) -> str:
    """Return what tells those apart that serve other tenants: they share nothing."""
    tenants = subscription.tenants
    if isinstance(tenants, AllTenants):
        return ""
    return ":" + sha256(" ".join(sorted(tenants)).encode()).hexdigest()[:16]
