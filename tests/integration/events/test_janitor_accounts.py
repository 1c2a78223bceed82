"""The janitor's accounts: what was published was acknowledged, or counted as lost."""

import asyncio
from random import Random

from tests.integration.events.janitor_parts import SHORT, process
from tests.rig.waiting import wait_until

COUNT = 3_000


class Reader:
    """A group of one careless consumer: it reads, and acknowledges some of it."""

    def __init__(self, one, key, group, seed):
        self.port, self.key, self.group = one.hub.port, key, group
        self.random = Random(seed)
        self.acknowledged = 0

    async def read(self, count):
        command = ("XREADGROUP", "GROUP", self.group, "c", "COUNT", count, "STREAMS")
        found = await self.port.send(*command, self.key, ">")
        pages = (
            found.values() if isinstance(found, dict) else [x[1] for x in found or ()]
        )
        ids = [entry[0] for page in pages for entry in page]
        kept = [entry for entry in ids if self.random.random() < 0.7]
        await asyncio.sleep(self.random.random() / 20)
        if kept:
            acked = await self.port.send("XACK", self.key, self.group, *kept)
            self.acknowledged += acked


async def test_every_event_is_acknowledged_or_counted_as_lost(server):
    """Once, for each group, while two processes trim what is being read."""
    async with process(server) as one, process(server):
        key = await one.add(SHORT.type)
        readers = [Reader(one, key, group, seed) for seed, group in enumerate("abc")]
        for reader in readers:
            server.execute("XGROUP", "CREATE", key, reader.group, "0")

        async def publish():
            for number in range(COUNT - 1):
                await one.hub.port.send("XADD", key, "*", "m", "m", "d", number)
                if number % 50 == 0:
                    await asyncio.sleep(0.01)

        async def consume(reader, pause):
            for _ in range(40):
                await reader.read(reader.random.randint(1, 120))
                await asyncio.sleep(pause)

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            for at, reader in enumerate(readers):
                group.create_task(consume(reader, at / 50))

        await wait_until(lambda: one.length(key) == 0, "everything has gone", 15.0)

        def sums():
            return [
                each.acknowledged + one.tally(each.group, "lost") for each in readers
            ]

        await wait_until(lambda: sums() == [COUNT] * 3, f"the sums are {COUNT}", 5.0)
        assert all(reader.acknowledged for reader in readers)
        assert any(one.tally(reader.group, "lost") for reader in readers)
