"""What the server behind a connection is and can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redis.exceptions import ResponseError

from mcp_crew_redis.errors import ConfigurationError

__all__ = ["PROBED_COMMANDS", "Capabilities", "Execute", "probe_capabilities"]

#: Runs one command; redis-py's `execute_command` or anything like it.
Execute = Callable[..., Awaitable[Any]]

#: Commands that a supported server may lack; what is not here must be everywhere.
PROBED_COMMANDS = (
    "ACL|WHOAMI",
    "CLIENT|KILL",
    "CLIENT|NO-EVICT",
    "CLIENT|TRACKING",
    "DELEX",
    "DELIFEQ",
    "FT.SEARCH",
    "HEXPIRE",
    "HGETEX",
    "HPEXPIRE",
    "HSETEX",
    "JSON.GET",
    "MSETEX",
    "VADD",
    "WAITAOF",
    "XACKDEL",
    "XDELEX",
)
_OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
_REQUIRED = "Redis 7.0 or Valkey 7.2, or newer, is required"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server told of itself; what it refused to tell is unknown.

    Attributes:
        server: Its kind; unknown when ACL rules refuse INFO.
        version: Its version, or () when unknown.
        mode: standalone or cluster.
        run_id: Changes with each start of the server; None when unknown.
        commands: Those of `PROBED_COMMANDS` that exist, or None when unknown.
        maxmemory_policy: What it evicts when full; None when unknown.
    """

    server: Literal["redis", "valkey", "unknown"]
    version: tuple[int, ...]
    mode: Literal["standalone", "cluster", "unknown"]
    run_id: str | None
    commands: frozenset[str] | None
    maxmemory_policy: str | None

    def supports(self, command: str) -> bool:
        """Whether `command` exists there; False when unknown: take the fallback.

        Args:
            command: One of `PROBED_COMMANDS`, in any case, `CLIENT TRACKING` too.

        Raises:
            ValueError: It was not probed.
        """
        name = command.upper().replace(" ", "|")
        if name not in PROBED_COMMANDS:
            raise ValueError(f"{name} is not probed: add it to PROBED_COMMANDS")
        return self.commands is not None and name in self.commands

    @property
    def may_evict(self) -> bool:
        """Whether a full server throws away keys instead of refusing writes."""
        return self.maxmemory_policy not in (None, "noeviction")


async def probe_capabilities(execute: Execute) -> Capabilities:
    """Ask a connected server what it is, in three round trips.

    Args:
        execute: Runs one command and returns its reply, parsed by redis-py or raw.

    Raises:
        ConfigurationError: Too old, a Sentinel, or not Redis at all; the message tells
            what was found and what is required. Not being allowed to ask is no error.
    """
    info = await _info(execute)
    server, version = _identify(info)
    mode = info.get("redis_mode", info.get("server_mode", "unknown"))
    if mode == "sentinel":
        raise ConfigurationError(
            "found a Sentinel where a server should be: name it in "
            "REDIS_CREW_SENTINELS instead"
        )
    return Capabilities(
        server=server,
        version=version,
        mode="cluster" if mode == "cluster" else _standalone(mode),
        run_id=info.get("run_id"),
        commands=await _existing_commands(execute),
        maxmemory_policy=await _maxmemory_policy(execute),
    )


def _standalone(mode: str) -> Literal["standalone", "unknown"]:
    return "standalone" if mode == "standalone" else "unknown"


async def _info(execute: Execute) -> dict[str, str]:
    """Return INFO server as text by field; empty when it may not be asked."""
    try:
        reply = await execute("INFO", "server")
    except ResponseError as error:
        if _is_refusal(error):
            return {}
        raise ConfigurationError(
            f"the other side does not know INFO: not Redis; {_REQUIRED}"
        ) from error
    if isinstance(reply, Mapping):
        return {_text(key): _text(value) for key, value in reply.items()}
    fields = (line.partition(":") for line in _text(reply).splitlines())
    return {key: value for key, colon, value in fields if colon}


def _identify(
    info: Mapping[str, str],
) -> tuple[Literal["redis", "valkey", "unknown"], tuple[int, ...]]:
    if not info:
        return "unknown", ()
    server: Literal["redis", "valkey"]
    server = "valkey" if "valkey_version" in info else "redis"
    found = info.get(f"{server}_version", "")
    if not found:
        raise ConfigurationError(f"the other side is not Redis; {_REQUIRED}")
    version = tuple(int(part) for part in found.split(".") if part.isdecimal())
    if version < _OLDEST[server]:
        raise ConfigurationError(f"found {server} {found}; {_REQUIRED}")
    return server, version


async def _existing_commands(execute: Execute) -> frozenset[str] | None:
    try:
        # One argument with a space: under the name COMMAND, redis-py's parser of the
        # reply cannot take the nil that stands for an unknown command.
        reply = await execute("COMMAND INFO", *PROBED_COMMANDS)
    except ResponseError:
        return None
    if not isinstance(reply, list) or len(reply) != len(PROBED_COMMANDS):
        return None
    pairs = zip(PROBED_COMMANDS, reply, strict=True)
    return frozenset(name for name, facts in pairs if facts)


async def _maxmemory_policy(execute: Execute) -> str | None:
    try:
        reply = await execute("CONFIG GET", "maxmemory-policy")
    except ResponseError:
        return None
    if isinstance(reply, Mapping):
        values = [_text(value) for value in reply.values()]
    else:
        values = [_text(value) for value in (reply or ())[1::2]]
    return values[0] if values else None


def _is_refusal(error: ResponseError) -> bool:
    """Whether the server knows the command and does not let us use it."""
    text = str(error)
    return "NOPERM" in text or "no permissions" in text.lower()


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
