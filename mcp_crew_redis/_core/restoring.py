"""What a new server is sent before anybody else: what the old one may have lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from redis import exceptions as redis_errors

from mcp_crew_redis._core.dialling import DialFailedError, Greeting
from mcp_crew_redis._core.port import translated
from mcp_crew_redis._core.script_batches import Call, exchange, pack_scripts
from mcp_crew_redis._core.wire_errors import WireConnectionLostError
from mcp_crew_redis.errors import CrewRedisError

if TYPE_CHECKING:
    from mcp_crew_redis._core.lane import Lane
    from mcp_crew_redis._core.scripts import ScriptLoader

__all__ = ["CHUNK", "CHUNK_BYTES", "Memory", "Restorer"]

CHUNK: Final = 512
"""Commands that are under way at a time."""
CHUNK_BYTES: Final = 1024 * 1024


class Memory(Protocol):
    """Remembers what a server has acknowledged."""

    @property
    def is_empty(self) -> bool:
        """Whether `calls` would return none."""
        ...

    def calls(self, since: float) -> Sequence[Call]:
        """Return scripts that put back what was acknowledged after `since`.

        Args:
            since: Loop seconds at which the old server was last known to live.
        """
        ...

    def restored(self, calls: Sequence[Call], replies: Sequence[object]) -> bool:
        """Take the answers; errors among them are ours.

        Returns:
            Whether the server may be used.
        """
        ...


class Restorer:
    """Finds out that a server is another one, and puts back what it may lack.

    On the new connection, before it is offered to anybody: whatever is sent later finds
    it done. A server is another one when its run id or its replication id is: it was
    started again, or a replica was promoted.

    Args:
        memory: What to put back.
        scripts: Where the scripts are.
    """

    def __init__(self, memory: Memory, scripts: ScriptLoader) -> None:
        self._memory = memory
        self._scripts = scripts
        self._known: tuple[str, str] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether the next server should be met soon: it may lack something."""
        return not self._memory.is_empty

    async def greet(
        self, lane: Lane, greeting: Greeting, others: Sequence[Lane]
    ) -> None:
        """Put back what `lane`'s server may lack, if it is another one.

        Another lane that still leads to the one before is ended: what is sent from now
        on goes to one server, and what that one may lack is known as a whole.

        Args:
            lane: Connected, and known to nobody else.
            greeting: What its server says of itself.
            others: The lanes so far.

        Raises:
            DialFailedError: The connection ended on the way; with the next one it
                begins anew.
        """
        for other in others:
            if other.is_alive and greeting.run_id not in ("", other.run_id):
                other.end("another server")
        identity = greeting.run_id, greeting.replication_id
        if self._known is not None and self._known != identity and greeting.run_id:
            calls = self._memory.calls(max(other.heard for other in others))
            if calls:
                await self._send_all(lane, calls)
        if greeting.run_id:
            self._known = identity

    async def _send_all(self, lane: Lane, calls: Sequence[Call]) -> None:
        replies: list[object] = []
        try:
            for chunk in _chunks(pack_scripts(calls, self._scripts, are_unknown=True)):
                replies += await exchange(lane, chunk)
        except CrewRedisError as error:
            lane.end("not restored")
            text = f"what {type(error).__name__} interrupted is tried again"
            raise DialFailedError(
                "restore", lambda: WireConnectionLostError(text)
            ) from error
        told = [
            translated(reply) if isinstance(reply, redis_errors.RedisError) else reply
            for reply in replies
        ]
        if not self._memory.restored(calls, told):
            lane.end("not restored")
            text = "the server refuses what must be put back first"
            raise DialFailedError("restore", lambda: WireConnectionLostError(text))


def _chunks(commands: Iterable[bytes]) -> Iterable[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for command in commands:
        chunk.append(command)
        size += len(command)
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
