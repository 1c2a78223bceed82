"""What a new server is sent before anybody else: what the old one may have lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis import exceptions as redis_errors

from mcp_crew_redis._core.dialling import DialFailedError, Greeting
from mcp_crew_redis._core.port import Call, translated
from mcp_crew_redis._core.resp import pack_command
from mcp_crew_redis._core.wire_errors import LaneLostError, WireConnectionLostError
from mcp_crew_redis.log import get_logger

if TYPE_CHECKING:
    from mcp_crew_redis._core.lane import Lane
    from mcp_crew_redis._core.scripts import ScriptLoader

__all__ = ["CHUNK", "CHUNK_BYTES", "Memory", "Restorer"]

log = get_logger(__name__)

CHUNK: Final = 512
"""Commands that are under way at a time."""
CHUNK_BYTES: Final = 1024 * 1024


class Memory(Protocol):
    """Remembers what a server has acknowledged."""

    def calls(self, since: float) -> Sequence[Call]:
        """Return scripts that put back what was acknowledged after `since`.

        Args:
            since: Loop seconds at which the old server was last known to live.
        """
        ...

    def restored(self, calls: Sequence[Call], replies: Sequence[object]) -> None:
        """Take the answers; errors among them are ours."""
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

    async def greet(self, lane: Lane, greeting: Greeting, heard: float) -> None:
        """Put back what `lane`'s server may lack, if it is another one.

        Args:
            lane: Connected, and known to nobody else.
            greeting: What its server says of itself.
            heard: Loop seconds of the last answer of the server before.

        Raises:
            DialFailedError: The connection ended on the way; with the next one it
                begins anew.
        """
        identity = greeting.run_id, greeting.replication_id
        if self._known is not None and self._known != identity and greeting.run_id:
            calls = self._memory.calls(heard)
            if calls:
                await self._send_all(lane, calls)
        if greeting.run_id:
            self._known = identity

    async def _send_all(self, lane: Lane, calls: Sequence[Call]) -> None:
        replies: list[object] = []
        try:
            for name in dict.fromkeys(call[0] for call in calls):
                script = self._scripts.load(name)
                await lane.submit(pack_command(("SCRIPT", "LOAD", script.source)))
            for chunk in _chunks(self._packed(calls)):
                replies += [
                    await _answer(slot) for slot in [lane.submit(one) for one in chunk]
                ]
        except (LaneLostError, TimeoutError, redis_errors.RedisError) as error:
            lane.end("not restored")
            text = f"what {type(error).__name__} interrupted is tried again"
            raise DialFailedError(
                "restore", lambda: WireConnectionLostError(text)
            ) from error
        self._memory.restored(calls, replies)

    def _packed(self, calls: Iterable[Call]) -> Iterable[bytes]:
        for name, keys, args in calls:
            sha = self._scripts.load(name).sha
            yield pack_command(("EVALSHA", sha, len(keys), *keys, *args))


async def _answer(slot: Any) -> object:
    try:
        return await slot
    except redis_errors.ResponseError as error:
        return translated(error)


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
