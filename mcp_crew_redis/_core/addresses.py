"""Where a host name leads, in which order to try it, and how its path is watched."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence

__all__ = ["LOOPBACK", "Addresses", "is_name", "path_options", "resolve"]

LOOPBACK = ("127.0.0.1", "::1")
MAX_REMEMBERED = 16  # failed addresses; a name has a handful


class Addresses:
    """Remembers which addresses failed, for everybody who dials the same node.

    A failed address is not banned: it is tried after those that did not fail, and
    before those that failed later.
    """

    def __init__(self) -> None:
        self._failed: dict[str, None] = {}  # in the order of their last failure

    def failed(self, address: str) -> None:
        """Put `address` behind the others; the empty one is none."""
        self._failed.pop(address, None)
        if not address:
            return
        self._failed[address] = None
        while len(self._failed) > MAX_REMEMBERED:
            del self._failed[next(iter(self._failed))]

    def worked(self, address: str) -> None:
        """Forget what `address` did."""
        self._failed.pop(address, None)

    def ordered(self, found: Iterable[str]) -> list[str]:
        """Return `found` in the order in which to try them."""
        places = {address: place for place, address in enumerate(self._failed, 1)}
        return sorted(found, key=lambda address: places.get(address, 0))

    def __repr__(self) -> str:
        return f"<Addresses failed={list(self._failed)}>"


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return every address of `host`, as the resolver orders them.

    A literal address and `localhost` are known without the loop's resolver, which
    would start a thread.

    Raises:
        OSError: The name has no address, or nobody can say.
    """
    if host == "localhost":
        return LOOPBACK
    if not is_name(host):
        return (host,)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_name(host: str) -> bool:
    """Whether `host` has to be looked up, and may lead elsewhere tomorrow."""
    if host in ("", "localhost"):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def path_options() -> dict[int, int]:
    """Return the options by which the kernel notices a path that died in silence.

    A lane finds out by itself (its idle PING); these are for connections that wait: a
    blocking command, a subscription. Asked after 5 s of silence, then each second;
    given up when nothing has come for 8 s, asked or unacknowledged, where the platform
    can count so.
    """
    wanted = {
        "TCP_KEEPIDLE": 5,
        "TCP_KEEPALIVE": 5,  # what macOS calls it
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 8_000,  # milliseconds
    }
    if hasattr(socket, "TCP_KEEPIDLE"):
        del wanted["TCP_KEEPALIVE"]
    return {
        getattr(socket, name): value
        for name, value in wanted.items()
        if hasattr(socket, name)
    }
