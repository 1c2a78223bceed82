"""One of several processes that write the same keys; see test_store_chaos.py.

Notes every stamp that the server acknowledges, and looks at each answer. Prints one
JSON object: the newest acknowledged stamp of each key with the digest of its value,
what went wrong, and how often what happened.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections import Counter
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mcp_crew_redis._core.breaker import BreakerSettings
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.header import HEADER_BYTES, unseal
from mcp_crew_redis.errors import ConflictError, UnavailableError
from mcp_crew_redis.store.stamps import StampSource
from mcp_crew_redis.store.store import Store
from mcp_crew_redis.tenant import Tenant
from mcp_crew_redis.types import DataType
from tests.integration.store.parts import store

CALLERS = 12
BURST = 0.6
"""Of each second, the part with writes; in the rest, what is late lands."""
TENANT = "acme"
NAMES = [f"k{at}" for at in range(8)]
STATE = DataType.STATE
CALM = BreakerSettings(threshold=10_000, minimum_calls=10_000)
DONE = (1, 2)  # written, or found written by an earlier sending

Acknowledged = dict[bytes, tuple[int, str | None]]

#: What the server has acknowledged to the call that runs: keys and their stamps.
told: ContextVar[dict[bytes, int]] = ContextVar("told")


def digest(payload: bytes) -> str:
    """Return what tells one value from another."""
    return hashlib.sha256(payload).hexdigest()[:16]


class Witness(Port):
    """A port that remembers which stamps were acknowledged."""

    newest: Acknowledged
    counts: Counter[str]

    async def run(self, script, keys, args=(), **options):
        """Run the script and note what its answer acknowledges."""
        reply = await super().run(script, keys, args, **options)
        if script in {"set_newer", "expire_newer"}:
            payload = None if script == "expire_newer" else args[0]
            self.note(keys[0], reply[0], args[0], payload)
        elif script == "set_newer_many":
            # More keys than pairs: those that the script only reads come last.
            for key, value, outcome in zip(keys, args[::2], reply[::2], strict=False):
                self.note(key, outcome, value, value)
        elif script == "delete_newer":
            for key, outcome in zip(keys, reply[::3], strict=False):
                self.note(key, outcome, args[0], args[0])
        return reply

    def note(self, key, outcome, header, value):
        """Remember the newest acknowledged write of a key."""
        self.counts["written" if outcome in DONE else f"outcome {outcome}"] += 1
        if outcome not in DONE:
            return
        stamp = unseal(header).stamp
        told.get()[key] = stamp
        if stamp > self.newest.get(key, (0, None))[0]:
            mark = None if value is None else digest(value[HEADER_BYTES:])
            self.newest[key] = (stamp, mark)


class Caller:
    """Calls one operation after the other, and cancels some of them."""

    def __init__(self, tenant, witness, random, wrong):
        self.tenant = tenant
        self.counts = witness.counts
        self.random = random
        self.wrong = wrong
        self.seen = dict.fromkeys(NAMES, 0)

    async def call(self):
        """Do one random thing, for as long as its caller has patience."""
        told.set({})
        name = self.random.choice(NAMES)
        patience = self.random.uniform(0.000_2, 0.03)
        is_patient = self.random.random() < 0.6
        weights = [50, 12, 10, 10, 18]
        what = self.random.choices(
            [self.set, self.set_many, self.delete, self.expire, self.read], weights
        )[0]
        try:
            async with asyncio.timeout(None if is_patient else patience):
                await what(name)
        except TimeoutError:
            self.counts["cancelled"] += 1
        except UnavailableError as error:
            self.counts[type(error).__name__] += 1
            await asyncio.sleep(0.005)
        except ConflictError:
            self.counts["ConflictError"] += 1
        else:
            self.counts["returned"] += 1

    async def set(self, name):
        """Write a value that nobody else writes."""
        await self.tenant.set(STATE, name, self.random.randbytes(24))
        self.expect(name)

    async def set_many(self, name):
        """Write some at once."""
        names = {name, *self.random.sample(NAMES, 3)}
        await self.tenant.set_many(STATE, {n: self.random.randbytes(8) for n in names})
        for each in names:
            self.expect(each)

    async def delete(self, name):
        """Leave a tombstone."""
        await self.tenant.delete(STATE, name)
        self.expect(name)

    async def expire(self, name):
        """Give it another stamp and leave its value."""
        if await self.tenant.expire(STATE, name, 3_600):
            self.expect(name)

    async def read(self, name):
        """Nobody's reads go back."""
        entry = await self.tenant.get_entry(STATE, name)
        if entry is None:
            return
        if entry.stamp < self.seen[name]:
            self.wrong.append(f"{name}: read {entry.stamp} after {self.seen[name]}")
        self.seen[name] = max(self.seen[name], entry.stamp)

    def expect(self, name):
        """What returned was acknowledged, and is newer than what was read before."""
        key = f"p:state:{{{TENANT}}}:{name}".encode()
        stamp = told.get().get(key)
        if stamp is None:
            self.counts["superseded"] += 1  # its reply was lost; a newer one stands
        elif stamp <= self.seen[name]:
            self.wrong.append(f"{name}: wrote {stamp} after reading {self.seen[name]}")
        else:
            self.seen[name] = stamp


async def main(socket: str, seed: int, seconds: float) -> None:
    """Write, delete and read for `seconds`."""
    wrong: list[str] = []
    address = {"unix_socket_path": socket, "protocol": 3}
    async with store(address, command_timeout=0.3, breaker=CALM) as context:
        witness = Witness(context.port.client, ScriptLoader())
        witness.newest, witness.counts = {}, Counter()
        stamps = StampSource(witness, context.clock)
        rooms = Store(replace(context, port=witness, stamps=stamps))
        tenant = Tenant.of(rooms, TENANT)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds

        async def work(number: int) -> None:
            caller = Caller(tenant, witness, Random(seed * 1_000 + number), wrong)
            while loop.time() < end:
                await caller.call()
                if (spent := loop.time() % 1.0) > BURST:  # the same in every process
                    await asyncio.sleep(1.0 - spent)

        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(work(number))
        await rooms.aclose()
    newest = {key.decode(): mark for key, mark in witness.newest.items()}
    report = {"newest": newest, "wrong": wrong[:20], "counts": witness.counts}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
