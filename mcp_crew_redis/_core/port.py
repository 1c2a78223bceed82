"""The narrow way from the floors above to the wire: bytes out, bytes in, our errors.

Replies are raw (`b"OK"`, not `True`), and what Redis answers instead of doing something
is one of our errors: nothing above this module knows redis-py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import exceptions as redis_errors

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.courier import PASSAGE, REPEATABLE, Passage
from mcp_crew_redis._core.script_batches import Call, run_scripts
from mcp_crew_redis._core.scripts import Argument, ScriptLoader
from mcp_crew_redis._core.wire_errors import refusal_code
from mcp_crew_redis.errors import (
    ConfigurationError,
    CrewRedisError,
    DataError,
    RefusedError,
)
from mcp_crew_redis.log import get_logger

__all__ = ["Call", "Port"]

log = get_logger(__name__)

# Answers that say: not now. Nothing was executed, and the data are not to blame.
NOT_NOW = frozenset({"OOM", "NOREPLICAS", "NOGOODSLAVE", "EXECABORT"})
# How a server says that the commands of a script are denied: since 7.2, and 7.0.
DENIED = ("ACL failure in script", "The user executing the script can't")
MOST_DENIED = 100  # names that are kept, so that each is logged once
REPEAT: dict[str, Any] = {REPEATABLE: True}


class Port:
    """Commands and scripts of the house on one client.

    Args:
        client: Must not decode replies.
        scripts: Read once, shared.
    """

    def __init__(self, client: PipelinedRedis, scripts: ScriptLoader) -> None:
        self.client = client
        self.scripts = scripts
        self._send = client.send
        self._denied: set[str] = set()

    async def send(self, *args: Argument, is_repeatable: bool = False) -> Any:
        """Send one command and return its raw reply.

        Args:
            *args: The command and its arguments.
            is_repeatable: Sending it twice is harmless, so a lost reply is asked for
                again instead of raising OutcomeUnknownError.

        Raises:
            UnavailableError: Redis did not answer, or does not serve now.
            DataError: The key holds another type.
            ConfigurationError: The ACL user may not do this.
        """
        try:
            return await self._send(args, REPEAT if is_repeatable else {})
        except redis_errors.RedisError as error:
            raise self._translated(error, args[0]) from error

    async def run(
        self,
        script: str,
        keys: Sequence[bytes],
        args: Sequence[Argument] = (),
        *,
        is_repeatable: bool = False,
        passage: Passage | None = None,
    ) -> Any:
        """Run the script of that name; errors and arguments as `send`.

        A `passage` tells a caller who is cancelled whether the script was on its way.
        """
        loaded = self.scripts.load(script)
        loaded.check(keys, args)
        options = REPEAT if is_repeatable else {}
        if passage is not None:
            options = {**options, PASSAGE: passage}
        tail = (len(keys), *keys, *args)
        try:
            try:
                return await self._send(("EVALSHA", loaded.sha, *tail), options)
            except redis_errors.NoScriptError:  # nothing was executed
                return await self._send(("EVAL", loaded.source, *tail), options)
        except redis_errors.RedisError as error:
            raise self._translated(error, script) from error

    async def send_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands in one round trip; an error stands in its command's place.

        Raises:
            UnavailableError: Redis did not answer all of them.
        """
        with translating():
            pipeline = self.client.pipeline(transaction=False)
            replies = await pipeline.execute_raw(commands)
        names = (command[0] for command in commands)
        return self._all_translated(replies, names)

    async def run_many(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one round trip; an error stands in its script's place.

        Raises:
            UnavailableError: Redis did not answer all of them; see `run_scripts`.
        """
        with translating():
            replies = await run_scripts(self.client.node, self.scripts, calls)
        return self._all_translated(replies, (name for name, _, _ in calls))

    def _all_translated(
        self, replies: Sequence[Any], names: Iterable[Argument]
    ) -> list[Any]:
        return [
            self._translated(reply, name)
            if isinstance(reply, redis_errors.RedisError)
            else reply
            for reply, name in zip(replies, names, strict=True)
        ]

    def _translated(
        self, error: redis_errors.RedisError, command: Argument
    ) -> CrewRedisError:
        """Return our error; what the ACL denies is logged once for each command."""
        ours = translated(error)
        if is_denial(error) and len(self._denied) < MOST_DENIED:
            name = command.decode() if isinstance(command, bytes) else str(command)
            if name not in self._denied:
                self._denied.add(name)
                log.error("wire.permission_refused", command=name)
        return ours


@contextmanager
def translating() -> Iterator[None]:
    """Turn redis-py's errors into ours."""
    try:
        yield
    except redis_errors.RedisError as error:
        raise translated(error) from error


def is_denial(error: redis_errors.RedisError) -> bool:
    """Whether the ACL forbids it; a script is denied what its commands are."""
    if isinstance(error, redis_errors.NoPermissionError):
        return True
    return isinstance(error, redis_errors.ResponseError) and any(
        words in str(error) for words in DENIED
    )


def translated(error: redis_errors.RedisError) -> CrewRedisError:
    """Return our error for what Redis answered or for how it did not."""
    if isinstance(error, CrewRedisError):
        return error  # the wire's own are both
    text = str(error)
    code = getattr(error, "status_code", None) or text.partition(" ")[0]
    if refusal_code(error) is not None or code in NOT_NOW:
        return RefusedError(code)
    if is_denial(error):
        return ConfigurationError(
            "the ACL user of REDIS_CREW_USERNAME may not do this: " + text
        )
    if code == "WRONGTYPE":
        return DataError("the key holds another type than this layer writes there")
    if "NEWERFORMAT" in text:
        return DataError("the value was written by a newer release of this layer")
    return DataError(f"Redis refused the command: {text}")
