"""Numbered work that several processes divide among themselves, each number one owner.

A share is a lease: its owner renews it and, without an answer in time, holds itself
back before anybody else may take the number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from mcp_crew_redis._core.port import Port
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import ConfigurationError, LifecycleError

__all__ = ["MAX_NUMBERS", "Held", "Shares"]

MAX_NUMBERS: Final = 256
MIN_LEASE: Final = 0.01
MARGIN: Final = 0.1
"""Part of the lease that the owner forgoes: clocks do not run equally fast."""

_NONE: Final[frozenset[int]] = frozenset()


class Held(NamedTuple):
    """What stands after a renewal.

    Attributes:
        members: The names of all processes that live, the caller's own included.
        owned: The numbers that the caller may work on.
        surplus: How many of them are too many: finish with so many, and give them up.
    """

    members: frozenset[str]
    owned: frozenset[int]
    surplus: int


class Shares:
    """One process's part in the work that a key divides. Has no tasks of its own.

    Owned by one process at a time as long as the server remembers (a failover may
    forget the last moments) and its clock makes no leap of a lease.

    Args:
        port: Runs the script.
        key: See `KeySpace.shares`.
        member: This process's part, a name that is never used again.
        lease: Seconds without a renewal after which others take over.
        count: How many numbers there are, from 0, at most 256; 0 for membership alone.
        clock: Local time.

    Raises:
        ConfigurationError: `count` or `lease` is out of range.
    """

    __slots__ = (
        "_clock",
        "_count",
        "_is_calling",
        "_key",
        "_lease",
        "_member",
        "_owned",
        "_port",
        "_turn",
        "_until",
    )

    def __init__(
        self,
        port: Port,
        key: bytes,
        member: str,
        lease: float,
        count: int,
        clock: Clock,
    ) -> None:
        if not (0 <= count <= MAX_NUMBERS and lease >= MIN_LEASE and member):
            raise ConfigurationError(
                f"shares have 0 to {MAX_NUMBERS} numbers, a lease of {MIN_LEASE} s "
                "at least, and members with names"
            )
        self._port = port
        self._key = key
        self._member = member
        self._lease = lease
        self._count = count
        self._clock = clock
        self._owned = _NONE
        self._until = 0.0
        self._turn = 0
        self._is_calling = False

    @property
    def member(self) -> str:
        """This process's name here."""
        return self._member

    @property
    def owned(self) -> frozenset[int]:
        """The numbers it may work on now; none once the lease has nearly passed.

        The lease counts from before the last renewal that was answered was sent, so
        it ends here before it ends on the server.
        """
        if self._owned and self._clock.monotonic() >= self._until:
            self._owned = _NONE
        return self._owned

    async def hold(self, give_up: Iterable[int] = ()) -> Held:
        """Renew the lease, give numbers up, and take what is free and due to it.

        Call it every third of the lease. Numbers that are given up are not owned any
        more from here on, whatever becomes of the call. Cancelled, it may take effect
        without anybody learning of it; the next call tells.

        Raises:
            UnavailableError: Redis did not answer; what is owned stays so until the
                lease has passed.
            DataError: There are 1,000 members already.
            LifecycleError: A call is under way.
        """
        left = frozenset(give_up)
        self._owned -= left
        sent = self._clock.monotonic()
        members, owned, surplus = await self._call("0", *left)
        self._owned = frozenset(owned)
        self._until = sent + self._lease * (1 - MARGIN)
        names = frozenset(name.decode() for name in members)
        return Held(names, self._owned, surplus)

    async def leave(self) -> None:
        """Give up everything and be a member no longer; a later `hold` joins again.

        Raises:
            UnavailableError: Redis did not answer: the lease has to pass.
            LifecycleError: A call is under way.
        """
        self._owned = _NONE
        await self._call("1")

    async def _call(self, *args: str | int) -> tuple[list[bytes], list[int], int]:
        if self._is_calling:
            raise LifecycleError("one call at a time renews a share")
        self._turn += 1
        first = (self._member, self._turn, max(1, round(self._lease * 1_000)))
        self._is_calling = True
        try:
            members, owned, surplus = await self._port.run(
                "shares_hold",
                (self._key,),
                (*first, self._count, *args),
                is_repeatable=True,
            )
        finally:
            self._is_calling = False
        return members, owned, surplus

    def __repr__(self) -> str:
        owned = len(self.owned)
        return f"<Shares {self._member} {owned} of {self._count}>"
