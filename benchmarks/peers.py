"""The clients that are compared, each behind the same two coroutine functions."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from rig import Address, cores

__all__ = ["EXPIRY_S", "OURS", "Peer", "load_class", "open_peers", "redis_arguments"]

OURS = "ours"
EXPIRY_S = 100
GLIDE_TIMEOUT_MS = 10_000  # its default of 250 ms would fail bursts of 1,000 callers


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A connected client.

    `get` and `set` are its normal methods, bound to one key and value. `on` is where
    all threads of the process run while it is measured.
    """

    name: str
    get: Callable[[], Awaitable[object]]
    set: Callable[[], Awaitable[object]]
    on: frozenset[int] = field(default_factory=lambda: cores()[0])


def load_class(spec: str) -> type | None:
    """Import `module:Class`; None where it is not there yet."""
    module, _, name = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


def redis_arguments(address: Address) -> dict[str, object]:
    """Return the keyword arguments with which redis-py reaches the address."""
    if address.path:
        return {"unix_socket_path": address.path, "protocol": 3}
    return {"host": "127.0.0.1", "port": address.port, "protocol": 3}


@contextlib.asynccontextmanager
async def open_peers(
    address: Address, payload: bytes, *, ours: str, most_callers: int
) -> AsyncIterator[list[Peer]]:
    """Connect every installed client; close them all at the end."""
    import redis.asyncio

    async with contextlib.AsyncExitStack() as stack:
        pool = redis.asyncio.Redis(
            **redis_arguments(address), max_connections=most_callers + 10
        )
        peers = [await _redis_like(stack, "redis-py", pool, payload)]
        if (glide := await _open_glide(stack, address, payload)) is not None:
            peers.extend(glide)
        if (coredis := await _open_coredis(stack, address, payload)) is not None:
            peers.append(coredis)
        if (our_class := load_class(ours)) is not None:
            client = our_class(**redis_arguments(address))
            peers.append(await _redis_like(stack, OURS, client, payload))
        yield peers


async def _redis_like(
    stack: contextlib.AsyncExitStack, name: str, client: object, payload: bytes
) -> Peer:
    connected = await stack.enter_async_context(client)
    key = f"bench:{name}"
    return Peer(
        name=name,
        get=lambda: connected.get(key),
        set=lambda: connected.set(key, payload, ex=EXPIRY_S),
    )


async def _open_glide(
    stack: contextlib.AsyncExitStack, address: Address, payload: bytes
) -> list[Peer] | None:
    """Open valkey-glide once, to be measured twice.

    Its work is done by threads of its own. On the client's core alone they wait for
    the event loop and it for them; on all cores they take the server's. Both are
    measured and the better one counts.
    """
    try:
        import glide
    except ImportError:
        return None
    node = (
        glide.NodeAddress(unix_socket_path=address.path)
        if address.path
        else glide.NodeAddress("127.0.0.1", address.port)
    )
    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration([node], request_timeout=GLIDE_TIMEOUT_MS)
    )
    stack.push_async_callback(client.close)
    expiry = glide.ExpirySet(glide.ExpiryType.SEC, EXPIRY_S)

    def peer(name: str, on: frozenset[int]) -> Peer:
        key = f"bench:{name}"
        return Peer(
            name=name,
            get=lambda: client.get(key),
            set=lambda: client.set(key, payload, expiry=expiry),
            on=on,
        )

    client_cores, server_cores = cores()
    return [
        peer("glide (client's core)", client_cores),
        peer("glide (all cores)", client_cores | server_cores),
    ]


async def _open_coredis(
    stack: contextlib.AsyncExitStack, address: Address, payload: bytes
) -> Peer | None:
    try:
        import coredis
    except ImportError:
        return None
    where = (
        {"unix_socket_path": address.path}
        if address.path
        else {"host": "127.0.0.1", "port": address.port}
    )
    client = await stack.enter_async_context(coredis.Redis(**where))
    return Peer(
        name="coredis",
        get=lambda: client.get("bench:coredis"),
        set=lambda: client.set("bench:coredis", payload, ex=EXPIRY_S),
    )
