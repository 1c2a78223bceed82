"""What a living server can be made to answer: commands beside the code under test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis.errors import ConnectionLostError, DataError, OperationTimeoutError
from mcp_crew_redis.testing.side_connection import Reply, SideConnection

__all__ = ["ServerFaults"]

_INTERVAL = 0.005
_PATIENCE = 5.0
_FILLING = tuple(f"testing:load:{number}" for number in range(1000))
# Of 1 KiB each: so often a loading server looks for what it is asked.
_FILL = """
for i = 1, #ARGV do
  redis.call('SET', ARGV[i], string.rep('x', 1100), 'EX', 60)
end
"""
_NOWHERE = ("127.0.0.1", "1")  # nothing listens there: refused at once
_ENDLESS = "while true do end"


class ServerFaults:
    """Faults of one server. Each stays until `heal()` or the server's restart.

    The codes are what clients are answered. Everything here takes a few milliseconds,
    at most five seconds when the server does not answer, and raises what
    `LocalServer.execute` raises. What was cancelled half-way is undone by `heal()`.
    """

    def __init__(self, side: SideConnection, folder: Path) -> None:
        self._side = side
        self._snapshot = folder / "dump.rdb"
        self._before: dict[str, str] = {}
        self._owner = TaskOwner("server_faults")
        self._occupied: SideConnection | None = None
        self._paused_until = 0.0

    # --- slow and silent ------------------------------------------------------
    async def pause_clients(self, seconds: float, *, writes_only: bool = False) -> None:
        """Answer nobody for some seconds (CLIENT PAUSE), or only those who read."""
        mode = "WRITE" if writes_only else "ALL"
        await self._side.execute("CLIENT", "PAUSE", round(seconds * 1000), mode)
        if not writes_only:
            self._paused_until = asyncio.get_running_loop().time() + seconds

    async def busy(self, seconds: float) -> None:
        """Run a script that does not end for some seconds; returns when it runs.

        BUSY for every command, until the script is killed.
        """
        await self.configure("busy-reply-threshold", "1")
        await self._occupy("EVAL", _ENDLESS, 0)
        await self._until(lambda answer: "BUSY" in answer)
        self._owner.start(self._end_script(seconds), "busy")

    async def load(self, seconds: float) -> None:
        """Load the data again, for about some seconds; returns when it has begun.

        LOADING for every command. The keys stay as they are; with them are a thousand
        more, named `testing:load:<n>`, for a minute or until `heal()`.
        """
        await self._side.execute("EVAL", _FILL, 0, *_FILLING)
        size = await self._side.execute("DBSIZE")
        assert isinstance(size, int)
        await self.configure("key-load-delay", str(round(seconds * 1e6 / size) or 1))
        await self.configure("rdbcompression", "no")
        await self.configure("loading-process-events-interval-bytes", "1024")
        await self._occupy("DEBUG", "RELOAD")
        await self._until(lambda answer: "LOADING" in answer)

    # --- refusing -------------------------------------------------------------
    async def fill_memory(self) -> None:
        """OOM for every command that may need memory; reads and deletes go on."""
        await self.configure("maxmemory", "1")

    async def make_read_only(self, *, serves_reads: bool = True) -> None:
        """Turn it into a replica whose master is nowhere: READONLY for writes.

        Args:
            serves_reads: False: MASTERDOWN, for reads too.
        """
        stale = "yes" if serves_reads else "no"
        await self.configure("replica-serve-stale-data", stale)
        await self._side.execute("REPLICAOF", *_NOWHERE)

    async def fail_saving(self) -> None:
        """Let its snapshot fail as on a broken disk: MISCONF for writes."""
        self._snapshot.unlink(missing_ok=True)
        self._snapshot.mkdir(exist_ok=True)  # no file can take a folder's place
        await self.configure("save", "3600 1")
        await self._side.execute("BGSAVE")
        await self._until_saving_failed()

    async def refuse_clients(self) -> None:
        """Refuse new connections for their number; those that stand stay."""
        await self.configure("maxclients", "1")

    async def deny(self, command: str) -> None:
        """Deny everybody a command, or a category such as `@write`: NOPERM."""
        await self._side.execute("ACL", "SETUSER", "default", f"-{command}")

    async def require_password(self, password: str) -> None:
        """NOAUTH or WRONGPASS for new connections without it; others stay."""
        await self.configure("requirepass", password)

    async def flush_scripts(self) -> None:
        """Forget every script: NOSCRIPT once for each."""
        await self._side.execute("SCRIPT", "FLUSH", "SYNC")

    async def configure(self, name: str, value: str) -> None:
        """Set any option (CONFIG SET) until it is healed.

        `configure("min-replicas-to-write", "1")` gives NOREPLICAS for writes.
        """
        if name not in self._before:
            held = await self._side.execute("CONFIG", "GET", name)
            self._before[name] = _text(held)
        await self._side.execute("CONFIG", "SET", name, value)

    # --- the end --------------------------------------------------------------
    async def heal(self) -> None:
        """Take every fault away; waits for the end of a pause of all clients."""
        rest = self._paused_until - asyncio.get_running_loop().time()
        patience = max(rest, 0.0) + _PATIENCE
        await self._kill_script(patience)
        await self._load_quickly()
        await self._until(lambda answer: answer[:4] not in ("LOAD", "BUSY"))
        await self._side.execute("CLIENT", "UNPAUSE")
        await self._side.execute("REPLICAOF", "NO", "ONE")
        await self._side.execute("ACL", "SETUSER", "default", "+@all")
        for name, value in tuple(self._before.items()):
            await self._side.execute("CONFIG", "SET", name, value)
            del self._before[name]
        await self._side.execute("UNLINK", *_FILLING)
        await self.aclose()

    async def aclose(self) -> None:
        """Forget the faults, without a word to the server: it is gone or well."""
        self._before.clear()
        self._paused_until = 0.0
        if self._occupied is not None:
            self._occupied.close()
            self._occupied = None
        if self._snapshot.is_dir():
            self._snapshot.rmdir()
        self._snapshot.unlink(missing_ok=True)
        await self._owner.aclose()  # last: whoever is cancelled here has done the rest

    async def _occupy(self, *command: str | int) -> None:
        """Send a command that the server is busy with; nobody awaits its reply."""
        if self._occupied is not None:
            self._occupied.close()
        self._occupied = self._side.another()
        await self._occupied.send(*command)

    async def _end_script(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._kill_script()

    async def _kill_script(self, deadline: float = _PATIENCE) -> None:
        # It has ended by itself, or its server has.
        with contextlib.suppress(DataError, ConnectionLostError):
            await self._side.execute("SCRIPT", "KILL", deadline=deadline)

    async def _load_quickly(self) -> None:
        if "key-load-delay" in self._before:  # it may be set while it loads
            await self._side.execute("CONFIG", "SET", "key-load-delay", 0)

    async def _until(self, holds: Callable[[str], bool]) -> None:
        """Repeat PING until `holds` of its answer, an error's text included."""
        async with _patience():
            while not holds(await self._ping()):  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(_INTERVAL)

    async def _ping(self) -> str:
        try:
            await self._side.execute("PING")
        except DataError as error:
            return str(error).removeprefix("the server answered: ")
        return ""

    async def _until_saving_failed(self) -> None:
        async with _patience():
            while True:
                info = await self._side.execute("INFO", "persistence")
                assert isinstance(info, bytes)
                if b"rdb_last_bgsave_status:err" in info:
                    return
                await asyncio.sleep(_INTERVAL)


@asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise OperationTimeoutError(_PATIENCE, sent=True) from None


def _text(held: Reply) -> str:
    """Return the value of CONFIG GET; an unknown name has none."""
    if isinstance(held, list) and held and isinstance(value := held[-1], bytes):
        return value.decode()
    raise DataError("the server knows no such option")
