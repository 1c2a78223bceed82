"""Pipelines: without a transaction they travel on a lane, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from redis import exceptions as redis_errors
from redis.asyncio.client import Pipeline
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from mcp_crew_redis._core.commands import SHARED, CommandClass, classify, refuse
from mcp_crew_redis._core.courier import Courier
from mcp_crew_redis._core.lane import Lane, Slot
from mcp_crew_redis._core.translation import translate
from mcp_crew_redis._core.wire_errors import WireOutcomeUnknownError
from mcp_crew_redis.errors import LifecycleError, UnavailableError

__all__ = ["LanePipeline"]

# What redis-py's own transactions put into a pipeline.
TRANSACTION = frozenset({"MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"})
CHUNK = 1024  # commands submitted before the first of them is awaited


class _Client(Protocol):
    connection_pool: Any
    response_callbacks: Any

    async def execute_command(self, *args: Any, **options: Any) -> Any: ...

    async def parse_reply(
        self, args: tuple[Any, ...], options: dict[str, Any], reply: Any
    ) -> Any: ...


class LanePipeline(Pipeline):
    """redis-py's pipeline; only where the commands travel differs.

    Without a transaction, commands of one pipeline keep their order and may be
    interleaved with those of other callers, as everywhere in Redis. If the connection
    ends on the way the whole pipeline raises, and what had been sent may have been
    executed.
    """

    def __init__(
        self, client: _Client, courier: Courier, transaction: bool, hint: str | None
    ) -> None:
        super().__init__(
            client.connection_pool, client.response_callbacks, transaction, hint
        )
        self._client = client
        self._courier = courier

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send everything collected and return the replies in order.

        Raises:
            UnavailableError: The server did not answer all of it.
            LifecycleError: A command would change the state of a pooled connection.
        """
        try:
            may_share = self._may_share()
        except LifecycleError:
            await self.reset()
            raise
        if not may_share:
            return list(await super().execute(raise_on_error))
        commands, scripts = self.command_stack, self.scripts
        self.command_stack, self.scripts = [], set()
        if scripts:
            await self._load(scripts)
        replies: list[Any] = []
        for start in range(0, len(commands), CHUNK):
            part = commands[start : start + CHUNK]
            replies += await self._run(part, is_going=start > 0)
        if raise_on_error:
            self.raise_first_error(commands, replies)
        return replies

    async def execute_raw(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send `commands` on a lane; raw replies, errors in their places."""
        replies: list[Any] = []
        for start in range(0, len(commands), CHUNK):
            part = commands[start : start + CHUNK]
            chunk: list[Any] = [(tuple(args), {}) for args in part]
            replies += await self._run(chunk, is_parsed=False, is_going=start > 0)
        return replies

    def _may_share(self) -> bool:
        is_alone = (
            self.is_transaction
            or self.explicit_transaction
            or self.watching
            or self.connection is not None
        )
        for args, _ in self.command_stack:
            if args[0] in SHARED:
                continue
            if args[0] in TRANSACTION:
                is_alone = True
                continue
            kind = classify(args)
            if kind in (CommandClass.OWN, CommandClass.REFUSED):
                raise refuse(args, kind)
            is_alone = is_alone or kind is CommandClass.DEDICATED
        return not is_alone

    async def _load(self, scripts: set[Any]) -> None:
        shas = [script.sha for script in scripts]
        known = await self._client.execute_command("SCRIPT EXISTS", *shas)
        for script, exists in zip(scripts, known, strict=True):
            if not exists:
                await self._client.execute_command("SCRIPT LOAD", script.script)

    async def _run(
        self, commands: Sequence[Any], *, is_parsed: bool = True, is_going: bool
    ) -> list[Any]:
        """Submit a chunk, then collect: error replies stand in their places.

        `is_going`: another chunk was sent before.
        """
        flights: list[tuple[Lane, Slot]] = []
        try:
            await self._submit(commands, flights, is_going=is_going)
            return [
                await self._reply(args, dict(options), flight, is_parsed=is_parsed)
                for (args, options), flight in zip(commands, flights, strict=True)
            ]
        finally:
            for slot in _open(flights):
                slot.cancel()  # abandoned: its reply is dropped when it comes

    async def _submit(
        self,
        commands: Sequence[Any],
        flights: list[tuple[Lane, Slot]],
        *,
        is_going: bool,
    ) -> None:
        """Submit all of a chunk; whatever ends that halfway has sent some of it."""
        is_bulk = False
        try:
            for args, options in commands:
                lane, slot = await self._courier.submit(
                    args,
                    self._courier.pack(args),
                    is_raw=NEVER_DECODE in options,
                    is_bulk=is_bulk,  # the rest stays behind the first large one
                    is_going=is_going or bool(flights),
                )
                is_bulk = is_bulk or lane.is_bulk
                flights.append((lane, slot))
        except UnavailableError as error:
            if not (flights or is_going):
                raise
            raise WireOutcomeUnknownError(
                f"some commands of the pipeline were sent, then: {error}"
            ) from error

    async def _reply(
        self,
        args: Any,
        options: dict[str, Any],
        flight: tuple[Lane, Slot],
        *,
        is_parsed: bool,
    ) -> Any:
        _, slot = flight
        try:
            reply = await slot
        except redis_errors.ResponseError as error:
            return options.get(EMPTY_RESPONSE, error)
        except Exception as error:  # noqa: BLE001 - the lane's end or a timeout
            raise translate(error) from None
        # Replies are taken one by one, mostly long after the lane has seen their size.
        if type(reply) is bytes and len(reply) > self._courier.bulk_bytes:
            self._courier.learn(args)
        if not is_parsed:
            return reply
        return await self._client.parse_reply(args, options, reply)


def _open(flights: Sequence[tuple[Lane, Slot]]) -> list[Slot]:
    return [slot for _, slot in flights if not slot.done()]
