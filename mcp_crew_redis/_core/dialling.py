"""Dialling a node: connect, shake hands, learn who answers, settle the past."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from mcp_crew_redis._core.lane import Lane
from mcp_crew_redis._core.seam import close_quietly, dialled, hand_over, parse_info
from mcp_crew_redis._core.sentinel_connection import follow
from mcp_crew_redis._core.strays import Stray
from mcp_crew_redis._core.topology import MasterNotFoundError
from mcp_crew_redis._core.wire_errors import (
    WireConfigurationError,
    WireConnectionLostError,
    WireCredentialsError,
    WireTimeoutError,
    refusal_code,
)
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.log import get_logger

__all__ = ["DialFailedError", "Dialler", "Greeting", "explain"]

log = get_logger(__name__)

MINIMUM = {"redis": (7, 0), "valkey": (7, 2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a node says of itself at the start of a connection.

    Attributes:
        server: "redis" or "valkey".
        version: As the server writes it.
        run_id: Changes with every start of the server; empty where INFO is refused.
        replication_id: Changes with every failover; empty where INFO is refused.
        role: "master" or "slave"; empty where INFO is refused.
        kill_refused: The server's ACL forbids CLIENT KILL (or INFO), so a stray
            command on a stalled path cannot be ruled out.
    """

    server: str
    version: str
    run_id: str
    replication_id: str
    role: str
    kill_refused: bool = False


class DialFailedError(Exception):
    """No connection. Inside the wire only: each caller gets a fresh `make()`.

    Attributes:
        cause: A short word for the circuit and the logs.
        make: Builds the caller's error.
        is_final: The server answered and will answer the same again: wrong
            credentials, not Redis, too old.
    """

    def __init__(
        self, cause: str, make: Callable[[], Exception], *, is_final: bool = False
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.make = make
        self.is_final = is_final


class Dialler:
    """Makes connections to one address, or to whom the sentinels name."""

    def __init__(
        self, make: Callable[[], AbstractConnection], settings: WireSettings
    ) -> None:
        self._make = make
        self._settings = settings

    async def dial(self, lane: Lane, strays: Iterable[Stray]) -> Greeting:
        """Connect and hand the connection to `lane`, after every stray is gone.

        A cancelled dial leaves no connection behind.

        Raises:
            DialFailedError: With what to tell the callers.
        """
        connection = self._make()
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await dialled(connection)
                greeting = await _greet(connection)
                greeting = await _settle(connection, greeting, strays)
            lane.attach(lambda protocol: hand_over(connection, protocol))
            follow(connection, lane)
        except Exception as error:
            # Any error: a credential provider, say, raises its own.
            close_quietly(connection)
            raise explain(error, self._settings.connect_timeout) from error
        except BaseException:
            close_quietly(connection)
            raise
        return greeting


async def _greet(connection: Any) -> Greeting:
    """Read what the connection learned in its handshake."""
    introduction = getattr(connection, "introduction", None)
    if introduction is None:  # a connection class of the user's
        return _from_hello({})
    info, pong = introduction
    if isinstance(info, redis_errors.NoPermissionError):
        return _from_hello(connection.hello or {})
    if isinstance(info, Exception):
        (info,) = await connection.ask(("INFO",))  # before 7.0 it took one section
    if isinstance(info, Exception):
        raise info
    greeting = _from_info(parse_info(info))
    _require_supported(greeting)
    if isinstance(pong, Exception) and not _still_serves(pong):
        raise pong  # LOADING or MASTERDOWN: it lives and does not serve yet
    return greeting


def _still_serves(pong: Exception) -> bool:
    """Whether what is said to PING leaves other commands: denied, or a failing disk."""
    is_denied = isinstance(pong, redis_errors.NoPermissionError)
    return is_denied or refusal_code(pong) == "MISCONF"


def _from_info(fields: Mapping[str, str]) -> Greeting:
    is_valkey = "valkey_version" in fields or fields.get("server_name") == "valkey"
    return Greeting(
        server="valkey" if is_valkey else "redis",
        version=fields.get("valkey_version") or fields.get("redis_version", ""),
        run_id=fields.get("run_id", ""),
        replication_id=fields.get("master_replid", ""),
        role=fields.get("role", ""),
    )


def _from_hello(hello: Mapping[bytes, Any]) -> Greeting:
    def text(name: bytes) -> str:
        value = hello.get(name, b"")
        return value.decode() if isinstance(value, bytes) else str(value)

    return Greeting(
        server=text(b"server") or "redis",
        version=text(b"version"),
        run_id="",
        replication_id="",
        role=text(b"role").replace("replica", "slave"),
        kill_refused=True,
    )


def _require_supported(greeting: Greeting) -> None:
    numbers = greeting.version.split(".")[:2]
    found = tuple(int(number) for number in numbers if number.isdigit())
    needed = MINIMUM[greeting.server]
    if found and found < needed:
        raise WireConfigurationError(
            f"the server is {greeting.server} {greeting.version}; this layer needs "
            "Redis 7.0 or newer, or Valkey 7.2 or newer"
        )


async def _settle(
    connection: Any, greeting: Greeting, strays: Iterable[Stray]
) -> Greeting:
    """Have the server end its own strays; the others died with their server."""
    own = [s for s in strays if s.run_id == greeting.run_id and greeting.run_id]
    if not own:
        return greeting
    kills: list[tuple[str | int, ...]] = [
        ("CLIENT", "KILL", "ID", stray.client_id) for stray in own
    ]
    for reply in await connection.ask(*kills):
        if isinstance(reply, redis_errors.NoPermissionError):
            log.warning("wire.kill_refused", count=len(own), error=str(reply))
            return replace(greeting, kill_refused=True)
        if isinstance(reply, Exception):
            raise reply  # BUSY or LOADING: nothing is settled, nothing may be sent
    return greeting


def explain(error: Exception, timeout: float) -> DialFailedError:  # noqa: PLR0911 - one line a case
    """Turn what redis-py raised into the cause and the caller's error."""
    if type(error) is redis_errors.ConnectionError:  # redis-py's wrapping
        cause = error.__cause__
        error = cause if isinstance(cause, redis_errors.RedisError) else error
    text = str(error)
    if isinstance(error, WireConfigurationError):
        return DialFailedError(
            "unsupported", lambda: WireConfigurationError(text), is_final=True
        )
    if isinstance(error, MasterNotFoundError):
        return DialFailedError("no master", lambda: MasterNotFoundError(text))
    if isinstance(error, (redis_errors.AuthenticationError,)) or _names_auth(text):
        return DialFailedError(
            "credentials", lambda: WireCredentialsError(_AUTH + text), is_final=True
        )
    if isinstance(error, redis_errors.InvalidResponse) or "unknown command" in text:
        return DialFailedError(
            "protocol", lambda: WireConfigurationError(_NOT_REDIS), is_final=True
        )
    if (code := refusal_code(error)) is not None:
        return DialFailedError(code.lower(), lambda: WireConnectionLostError(text))
    if isinstance(error, redis_errors.ResponseError):
        return DialFailedError(
            "refused",
            lambda: WireConfigurationError(f"the server refused: {text}"),
            is_final=True,
        )
    if isinstance(error, (TimeoutError, redis_errors.TimeoutError)):
        return DialFailedError(
            "dial timeout", lambda: WireTimeoutError(timeout, sent=False)
        )
    word = "loading" if isinstance(error, redis_errors.BusyLoadingError) else "dial"
    return DialFailedError(word, lambda: WireConnectionLostError(text))


_AUTH = (
    "the server refused the credentials: check REDIS_CREW_USERNAME and "
    "REDIS_CREW_PASSWORD; it said: "
)
_NOT_REDIS = (
    "what answers at this address does not speak the protocol of Redis 7.0 or newer "
    "(RESP3): check REDIS_CREW_HOST, REDIS_CREW_PORT and REDIS_CREW_TLS"
)


def _names_auth(text: str) -> bool:
    return text.startswith(("WRONGPASS", "NOAUTH", "invalid username-password"))
