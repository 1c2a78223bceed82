"""`PipelinedRedis`: redis-py's client on multiplexed lanes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from random import Random
from typing import Any, Self

import redis.asyncio
from redis.asyncio.connection import ConnectionPool
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.maint_notifications import MaintNotificationsConfig

from mcp_crew_redis._core.assembly import make_pool
from mcp_crew_redis._core.breaker import BreakerSettings, CircuitState
from mcp_crew_redis._core.commands import SHARED, CommandClass, classify, refuse
from mcp_crew_redis._core.courier import Courier
from mcp_crew_redis._core.dedicated import DedicatedPool
from mcp_crew_redis._core.dialling import Greeting
from mcp_crew_redis._core.node import Node
from mcp_crew_redis._core.pipelines import LanePipeline
from mcp_crew_redis._core.resp import pack_command
from mcp_crew_redis._core.seam import close_quietly
from mcp_crew_redis._core.statistics import NodeStatistics
from mcp_crew_redis._core.topology import SentinelSettings
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.clock import Clock, SystemClock

__all__ = ["PipelinedRedis"]

_lookup: Any = dict.get


class PipelinedRedis(redis.asyncio.Redis):
    """A `redis.asyncio.Redis` whose commands share two multiplexed connections.

    Everything that redis-py's client offers works: commands, `pipeline()`, `lock()`,
    `register_script()`, `pubsub()`, `monitor()`, `client()`. Commands that block or
    are unknown use one of `pool_size - 2` dedicated connections.

    Construction is inert; the first command connects. `aclose()` ends it.

    Cancellation: a cancelled command may have been executed or not; the connection
    and the other callers are not affected.

    Args:
        wire: Limits and timeouts.
        breaker: When the circuit opens and how it closes.
        clock: Time; tests may hold it still.
        random: Jitter; tests may pin it.
        sentinels: Who name the server, instead of a host and a port.
        on_push: Called with every RESP3 push that arrives on a lane.
        **options: redis-py's own keyword arguments. Its retry is switched off:
            retries are decided here, by what is known about the command.
    """

    def __init__(
        self,
        *,
        wire: WireSettings | None = None,
        breaker: BreakerSettings | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        sentinels: SentinelSettings | None = None,
        on_push: Callable[[list[Any]], None] | None = None,
        **options: Any,
    ) -> None:
        settings = wire or WireSettings()
        if options.get("connection_pool") is None:
            options.setdefault("protocol", 3)
            options.setdefault("socket_connect_timeout", settings.connect_timeout)
            options.setdefault("socket_timeout", settings.dedicated_timeout)
            options.setdefault(
                "maint_notifications_config", MaintNotificationsConfig(enabled=False)
            )
        super().__init__(**options)
        self._has_own_callbacks = False
        pool = self.connection_pool
        if isinstance(pool, DedicatedPool):  # client(): one connection of the parent's
            self._adopt(pool, owns_node=False)
        else:
            parent = make_pool(
                pool,
                settings=settings,
                breaker=breaker or BreakerSettings(),
                clock=clock or SystemClock(),
                random=random or Random(),  # noqa: S311 - jitter
                sentinels=sentinels,
                on_push=on_push,
            )
            self._adopt(parent, owns_node=True)

    def _adopt(self, pool: DedicatedPool, *, owns_node: bool) -> None:
        encoder = pool.get_encoder()
        self.connection_pool = pool
        self._owns_node = owns_node
        self._node = node = pool.node
        self._routing = node.routing
        self._courier = Courier(self, node, pool, encoder)
        self._decodes = bool(encoder.decode_responses)
        self._bulk_bytes = node.settings.bulk_bytes
        # Where the hot path may go at all: not on a client() of one connection, and
        # not with an encoding that hiredis does not pack.
        is_direct = not self.single_connection_client and self._courier.is_utf8
        self._direct = SHARED if is_direct else frozenset()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:  # type: ignore[override] # ours takes more
        """Make a client from a `redis://`, `rediss://` or `unix://` URL."""
        if options.pop("auto_close_connection_pool", None) is not None:
            warnings.warn(
                "auto_close_connection_pool is deprecated and has no effect here: the "
                "client always closes its connections",
                DeprecationWarning,
                stacklevel=2,
            )
        names = ("wire", "breaker", "clock", "random", "sentinels", "on_push")
        ours = {name: options.pop(name) for name in names if name in options}
        single = options.pop("single_connection_client", False)
        options.setdefault("protocol", 3)
        pool = ConnectionPool.from_url(url, **options)
        client = cls(connection_pool=pool, single_connection_client=single, **ours)
        client.auto_close_connection_pool = True
        return client

    # --- commands -------------------------------------------------------------------

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command and return its reply, parsed as redis-py parses it.

        Raises:
            UnavailableError: Redis did not answer; the subclass says what is known.
            redis.exceptions.ResponseError: Redis answered with an error.
            LifecycleError: The command may not travel on a shared connection.
        """
        # Every caller of every feature passes here: each line was measured.
        lane = self._node.interactive
        if (
            len(lane.pending) >= lane.limit
            or args[0] not in self._direct
            or (self._routing.is_active and self._routing.takes_bulk(args))
            or (self._decodes and NEVER_DECODE in options)
        ):
            return await self._execute_with_care(args, options)
        try:
            packed = pack_command(args)
        except TypeError:  # a type that only redis-py's encoder knows, or refuses
            return await self._execute_with_care(args, options)
        if len(packed) > self._bulk_bytes:
            return await self._execute_with_care(args, options)
        try:
            slot = lane.submit(packed)
            reply = await slot
        except Exception as error:  # noqa: BLE001 - sorted there
            reply = await self._courier.recover(error, args, options)
        else:
            if lane.large and slot in lane.large:
                self._courier.learn(args)
        callback = _lookup(self.response_callbacks, args[0])
        if callback is None:
            return reply
        if options:
            _strip(options)
        result = callback(reply, **options)
        if self._has_own_callbacks and inspect.isawaitable(result):
            return await result
        return result

    async def send(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """As `execute_command`, but the reply stays as it came off the wire.

        Only for commands that travel on a lane; `options` are the courier's.
        """
        lane = self._node.interactive
        if (
            len(lane.pending) >= lane.limit
            or args[0] not in self._direct
            or (self._routing.is_active and self._routing.takes_bulk(args))
        ):
            self._node.admission.admit()
            return await self._courier.deliver(args, options)
        packed = pack_command(args)
        if len(packed) > self._bulk_bytes:
            return await self._courier.deliver(args, options)
        try:
            slot = lane.submit(packed)
            reply = await slot
        except Exception as error:  # noqa: BLE001 - sorted there
            return await self._courier.recover(error, args, options)
        if lane.large and slot in lane.large:
            self._courier.learn(args)
        return reply

    async def _execute_with_care(
        self, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        self._node.admission.admit()  # an open circuit answers here, at once
        if self.single_connection_client:
            return await super().execute_command(*args, **options)
        kind = classify(args)
        if kind is CommandClass.DEDICATED:
            return await self._courier.run_dedicated(args, options)
        if kind is not CommandClass.SHARED:
            raise refuse(args, kind)
        reply = await self._courier.deliver(args, options)
        return await self.parse_reply(args, options, reply)

    async def parse_reply(
        self, args: tuple[Any, ...], options: dict[str, Any], reply: Any
    ) -> Any:
        """Apply redis-py's response callback for the command, if it has one."""
        callback = self.response_callbacks.get(args[0])
        if callback is None:
            return reply
        _strip(options)
        result = callback(reply, **options)
        return await result if inspect.isawaitable(result) else result

    def set_response_callback(self, command: str, callback: Any) -> None:
        """Set a callback of your own; it may be a coroutine function."""
        super().set_response_callback(command, callback)
        self._has_own_callbacks = True

    def pipeline(
        self, transaction: bool = True, shard_hint: str | None = None
    ) -> LanePipeline:
        """Collect commands and send them in one go.

        With `transaction=False` they travel on a lane, in chunks; otherwise, and after
        `watch()`, on a dedicated connection.
        """
        return LanePipeline(self, self._courier, transaction, shard_hint)

    # --- life -----------------------------------------------------------------------

    async def connect(self) -> Greeting:
        """Connect now instead of with the first command.

        Raises:
            UnavailableError: The server cannot be reached.
            ConfigurationError: It refuses the credentials, is too old, or no Redis.
        """
        return await self._node.connect()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the lanes and the dedicated connections. Idempotent."""
        connection, pool = self.connection, self.connection_pool
        if not self._owns_node and connection is not None:
            # It may have selected a database or watch a key: not for the next user.
            close_quietly(connection)
        if self._owns_node:
            await self._node.aclose()
        await super().aclose(close_connection_pool)
        if self._owns_node:
            await pool.aclose()

    @property
    def greeting(self) -> Greeting | None:
        """What the server last said of itself, None before the first connection."""
        return self._node.greeting

    @property
    def circuit_state(self) -> CircuitState:
        """The state of the circuit to the node."""
        return self._node.breaker.state

    @property
    def node(self) -> Node:
        """The node behind this client: circuit, lanes, statistics."""
        return self._node

    def statistics(self) -> NodeStatistics:
        """Return the figures of this moment."""
        return self._node.statistics()


def _strip(options: dict[str, Any]) -> None:
    """Remove what redis-py's callbacks do not take."""
    options.pop("keys", None)
    options.pop(NEVER_DECODE, None)
    options.pop(EMPTY_RESPONSE, None)
