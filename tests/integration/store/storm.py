"""Writers behind failing paths; also a program: one process of several.

`python storm.py SOCKET SECONDS SEED` writes until the time is over and prints what it
has seen, as JSON.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from random import Random

import redis

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._wire.header import unseal
from mcp_crew_redis.errors import UnavailableError
from mcp_crew_redis.testing import FaultProxy

__all__ = ["KEY", "NAMES", "Storm", "run_storm"]

STATE = DataType.STATE
KEY = "mcp-crew:state:{{acme}}:{}"
NAMES = ("a", "b", "c", "d")


class Storm:
    """Writers whose paths to the server fail all the time, for some seconds."""

    def __init__(self, unix_socket, seconds, seed):
        self.random = Random(seed)
        self.server = redis.Redis(unix_socket_path=unix_socket)
        self.newest = dict.fromkeys(NAMES, 0)
        self.acknowledged = 0
        self._time = asyncio.get_running_loop().time
        self._end = self._time() + seconds

    @property
    def is_over(self):
        return self._time() >= self._end

    def look(self, name):
        """The stamp that stands is never older than one that has stood."""
        data = self.server.get(KEY.format(name))
        stamp = 0 if data is None else unseal(data).stamp
        assert stamp >= self.newest[name]
        self.newest[name] = stamp

    async def write(self, tenant):
        while not self.is_over:
            name = self.random.choice(NAMES)
            try:
                async with asyncio.timeout(self.random.choice([None, 0.001, 0.01])):
                    if self.random.random() < 0.2:
                        await tenant.delete(STATE, name)
                    else:
                        await tenant.set(STATE, name, self.random.random())
            except (UnavailableError, TimeoutError):
                await asyncio.sleep(0.002)
                continue
            self.acknowledged += 1
            self.look(name)

    async def disturb(self, proxy):
        faults = [
            proxy.requests.stall,
            proxy.requests.stall,
            proxy.replies.stall,
            proxy.cut,
            lambda: proxy.drop_reply_to(b"EVALSHA"),
        ]
        while not self.is_over:
            await asyncio.sleep(self.random.uniform(0.05, 0.3))
            self.random.choice(faults)()
            await asyncio.sleep(self.random.uniform(0.01, 0.2))
            proxy.heal()

    async def blow(self, tenants, proxies):
        """Let all of them go at once, until it is over; then heal and look."""
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(self.write(tenants[number % len(tenants)]))
            for proxy in proxies:
                group.create_task(self.disturb(proxy))
        for proxy in proxies:
            proxy.heal()
        for name in NAMES:
            self.look(name)


async def run_storm(unix_socket, seconds, *, crews, seed):
    """Blow through `crews` crews, each behind a proxy of its own; return the storm."""
    storm = Storm(unix_socket, seconds, seed)
    async with AsyncExitStack() as stack:
        stack.callback(storm.server.close)
        enter = stack.enter_async_context
        proxies = [await enter(FaultProxy(unix_socket)) for _ in range(crews)]
        tenants = []
        for proxy in proxies:
            where = CrewSettings(unix_socket=proxy.unix_socket, command_timeout=0.2)
            crew = await enter(CrewRedis(where))
            tenants.append(crew.tenant("acme"))
            await tenants[-1].set(STATE, "warm", 0)
        await storm.blow(tenants, proxies)
    return storm


def main(unix_socket, seconds, seed):
    """Be one of several processes."""
    work = run_storm(unix_socket, float(seconds), crews=1, seed=int(seed))
    storm = asyncio.run(work)
    sys.stdout.write(
        json.dumps({"newest": storm.newest, "acknowledged": storm.acknowledged}) + "\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
