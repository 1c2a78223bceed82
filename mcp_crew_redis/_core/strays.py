"""Strays: connections given up with commands unanswered.

A path that stalled may deliver such a command when it wakes, over a newer value. So the
server is told to end the connection, and nothing else is sent to it before it has
answered: then what was ambiguous has happened, or never will.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from redis import exceptions as redis_errors

from mcp_crew_redis._core.lane import Lane
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.resp import pack_command
from mcp_crew_redis._core.wire_errors import LaneLostError
from mcp_crew_redis.log import get_logger

__all__ = ["Stray", "Strays"]

REFUSED_PAUSE = 0.02  # seconds until CLIENT KILL is tried again on a busy server

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stray:
    """A connection that may still execute something.

    Attributes:
        run_id: The server process it led to; another process never sees it.
        client_id: The number that this process gave it.
    """

    run_id: str
    client_id: int


class Strays:
    """The strays of one node, and the task that ends them over a living lane.

    Args:
        owner: Runs that task.
        living: Returns a lane that lives, or None.
        changed: Called whenever there may be none left, or a first one.
    """

    def __init__(
        self,
        owner: TaskOwner,
        living: Callable[[], Lane | None],
        changed: Callable[[], None],
    ) -> None:
        self._owner = owner
        self._living = living
        self._changed = changed
        self._strays: list[Stray] = []
        self._settling: asyncio.Future[None] | None = None
        self.is_refused = False  # the server's ACL forbids CLIENT KILL

    def __len__(self) -> int:
        return len(self._strays)

    def snapshot(self) -> tuple[Stray, ...]:
        """Return those of this moment, for a dial to settle."""
        return tuple(self._strays)

    def report(self, client_id: int | None, run_id: str) -> None:
        """Add a connection; without both names it cannot be told apart, and is lost."""
        if client_id is None or not run_id:
            return
        self._strays.append(Stray(run_id, client_id))
        self._changed()
        if self._living() is not None:
            self._start()

    def forget(self, settled: Collection[Stray]) -> None:
        """Drop those that the server has confirmed; more may have come meanwhile."""
        self._strays = [stray for stray in self._strays if stray not in settled]
        self._changed()

    async def settled(self) -> None:
        """Wait for the attempt under way, or make one. A lane must be alive."""
        self._start()
        if self._settling is not None:
            await asyncio.shield(self._settling)

    def _start(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_future()
            self._owner.start(self._settle(self._settling), "settle")

    async def _settle(self, done: asyncio.Future[None]) -> None:
        try:
            while self._strays and (lane := self._living()) is not None:
                stray = self._strays[0]
                # A number means something only to the process that gave it.
                if stray.run_id == lane.run_id:
                    await self._kill(lane, stray)
                self.forget((stray,))
        except (LaneLostError, TimeoutError):
            pass  # this lane is ending too: the next dial settles what is left
        except redis_errors.ResponseError:
            await asyncio.sleep(REFUSED_PAUSE)  # BUSY, LOADING: ask again in a while
        finally:
            self._settling = None
            if not done.done():
                done.set_result(None)

    async def _kill(self, lane: Lane, stray: Stray) -> None:
        kill = pack_command(("CLIENT", "KILL", "ID", stray.client_id))
        try:
            await lane.submit(kill)
        except redis_errors.NoPermissionError as error:
            self.is_refused = True
            log.warning("wire.kill_refused", error=str(error))
