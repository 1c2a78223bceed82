"""What Redis shows of an event run: streams, groups, dead letters."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Self

import redis

from mcp_crew_redis._wire.envelope import unpack_envelope
from mcp_crew_redis._wire.uuid7 import id_text
from tests.faults.event_chaos_told import Name
from tests.faults.event_chaos_worker import GROUP
from tests.rig.servers import RealServer

__all__ = ["Entry", "View"]

Entry = tuple[str, str]
"""Of an entry: the key of its stream, and its place there."""


class View:
    """Looks at streams and groups as they stand on a server.

    Args:
        server: Which.
    """

    def __init__(self, server: RealServer) -> None:
        self._client = redis.Redis(unix_socket_path=server.unix_socket, retry=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def streams(self) -> list[bytes]:
        """Return the keys of all streams of events."""
        keys = self._client.keys("*:events:{*}:*:*")
        return sorted(keys)

    def pending(self, pid: int | None = None) -> dict[Entry, int]:
        """Return pending entries with their deliveries; of one process, or of all."""
        for _ in range(2):  # whatever a process that died had sent is done then
            self._client.ping()
        found: dict[Entry, int] = {}
        for key in self.streams():
            try:
                told = self._client.xpending_range(key, GROUP, "-", "+", 1_000_000)
            except redis.ResponseError:
                continue  # no group yet
            for one in told:
                if pid is None or f"-{pid}-".encode() in one["consumer"]:
                    entry = key.decode(), one["message_id"].decode()
                    found[entry] = one["times_delivered"]
        return found

    def unread(self) -> int:
        """Return how many entries the group has not been given yet."""
        count = 0
        for key in self.streams():
            groups = {one["name"]: one for one in self._client.xinfo_groups(key)}
            last = groups.get(GROUP.encode(), {"last-delivered-id": b"-"})
            start = last["last-delivered-id"]
            after = start if start == b"-" else b"(" + start
            count += len(self._client.xrange(key, after, "+"))
        return count

    def entries(self) -> dict[Name, list[Entry]]:
        """Return where each event stands."""
        found: dict[Name, list[Entry]] = defaultdict(list)
        for key in self.streams():
            tenant = key.decode().partition("{")[2].partition("}")[0]
            for place, fields in self._client.xrange(key):
                name = id_text(unpack_envelope(fields[b"m"]).id)
                found[tenant, name].append((key.decode(), place.decode()))
        return found

    def dead(self) -> dict[Name, str]:
        """Return the dead letters, with the reason of each."""
        found: dict[Name, str] = {}
        for key in self._client.keys("*:event:{*}:dead:*"):
            tenant = key.decode().partition("{")[2].partition("}")[0]
            for _, fields in self._client.xrange(key):
                name = id_text(unpack_envelope(fields[b"m"]).id)
                found[tenant, name] = fields[b"_r"].decode()
        return found

    def tally(self) -> Counter[str]:
        """Return the counts of all groups together."""
        total: Counter[str] = Counter()
        for key in self._client.keys("*:event:{*}:tally:*"):
            told = self._client.hgetall(key)
            total.update({name.decode(): int(value) for name, value in told.items()})
        return total
