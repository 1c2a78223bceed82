"""One process of an outage run: calls a crew and writes down what became of it.

The argument is one JSON object: the crew's `settings`, the `log` to write, `seed`,
`callers`, seconds of `pause` between two calls of a caller. Ends after a line or the
end on standard input: then it drains its journal and writes what that tells.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mcp_crew_redis import (
    CrewRedis,
    CrewSettings,
    DataType,
    DeleteOutcome,
    OperationTimeoutError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.journal.entries import Register
from tests.faults.outage_log import CallLog

TENANTS = ("t0", "t1", "t2")
NAMES = tuple(f"k{at}" for at in range(5))
COUNTERS = ("c0", "c1")
STATE = DataType.STATE
DRAIN = 30.0


class Witness:
    """Sees the stamp under which a caller's write was accepted, by Redis or not."""

    def __init__(self) -> None:
        self._seen: dict[asyncio.Task[Any] | None, dict[str, Register]] = {}

    def watch(self) -> None:
        """Look at what Redis has acknowledged and what the journal is offered."""
        make, register_of = Fallback.__init__, Register.of

        def made(fallback, *args, **options):
            make(fallback, *args, **options)
            landed = fallback.landed

            def has_landed(key, stamp, sealed):
                self._see(register_of(key, "", sealed))
                landed(key, stamp, sealed)

            fallback.landed = has_landed

        def offered(key, tenant_id, sealed):
            register = register_of(key, tenant_id, sealed)
            self._see(register)
            return register

        patch.object(Fallback, "__init__", made).start()
        patch.object(Register, "of", offered).start()

    def begin(self) -> None:
        """Forget what was seen of this task's last call."""
        self._seen[asyncio.current_task()] = {}

    def stamps(self) -> dict[str, tuple[int, bool]]:
        """Return the stamp of each name of this task's call, and if it is wall time."""
        seen = self._seen[asyncio.current_task()]
        return {name: (one.stamp, one.is_wall_time) for name, one in seen.items()}

    def _see(self, register: Register) -> None:
        seen = self._seen.get(asyncio.current_task())
        if seen is not None:  # a call's own task, and not the synchroniser's
            seen[register.key.decode().rpartition(":")[2]] = register


class Caller:
    """Calls one random operation after the other."""

    def __init__(self, crew, log, witness, name, random):
        self._tenants = {name: crew.tenant(name) for name in TENANTS}
        self._log, self._witness = log, witness
        self._name, self._random = name, random
        self._count = 0
        self.errors: Counter[str] = Counter()
        self._time = asyncio.get_running_loop().time

    async def call(self):
        """Do one thing and write it down."""
        tenant = self._random.choice(TENANTS)
        what = (self.set, self.set_once, self.set_many, self.delete, self.add)
        reads = (self.read, self.read_entry, self.read_many)
        weights = (22, 12, 8, 10, 18, 10, 10, 10)
        chosen = self._random.choices((*what, *reads), weights)[0]
        await chosen(tenant, self._random.choice(NAMES))

    # --- writes -----------------------------------------------------------------------

    async def set(self, tenant, name):
        """Write a value that nobody else writes."""
        mark = self._mark()
        room = self._tenants[tenant]
        about = {"op": "set", "tenant": tenant, "names": [name], "mark": mark}
        await self._note(about, lambda: room.set(STATE, name, mark))

    async def set_once(self, tenant, _):
        """Write under a name that nobody else uses: nothing replaces it."""
        await self.set(tenant, f"once-{self._name}-{self._count}")

    async def set_many(self, tenant, name):
        """Write four at once."""
        mark, names = self._mark(), sorted({name, *self._random.sample(NAMES, 3)})
        room = self._tenants[tenant]
        about = {"op": "set", "tenant": tenant, "names": names, "mark": mark}
        await self._note(
            about, lambda: room.set_many(STATE, dict.fromkeys(names, mark))
        )

    async def delete(self, tenant, name):
        """Leave a tombstone."""
        room = self._tenants[tenant]
        about = {"op": "delete", "tenant": tenant, "names": [name]}
        await self._note(about, lambda: room.delete(STATE, name))

    async def add(self, tenant, _):
        """Add to a counter."""
        name, amount = self._random.choice(COUNTERS), self._random.randint(1, 9)
        room = self._tenants[tenant]
        about = {"op": "add", "tenant": tenant, "names": [name], "amount": amount}
        await self._note(about, lambda: room.increment(DataType.COUNTER, name, amount))

    # --- reads ------------------------------------------------------------------------

    async def read(self, tenant, name):
        """Read a value."""
        room = self._tenants[tenant]

        async def get():
            return {name: await room.get(STATE, name)}

        await self._note({"op": "read", "tenant": tenant, "names": [name]}, get)

    async def read_entry(self, tenant, name):
        """Read it with what is known of it."""
        room = self._tenants[tenant]

        async def get():
            entry = await room.get_entry(STATE, name)
            return {name: None if entry is None else entry.value}

        await self._note({"op": "read", "tenant": tenant, "names": [name]}, get)

    async def read_many(self, tenant, _):
        """Read some at once."""
        room, names = self._tenants[tenant], self._random.sample(NAMES, 4)

        async def get():
            return dict.fromkeys(names) | await room.get_many(STATE, names)

        await self._note({"op": "read", "tenant": tenant, "names": names}, get)

    # --- notes ------------------------------------------------------------------------

    def _mark(self):
        self._count += 1
        return f"{self._name}-{self._count}"

    async def _note(self, about, call):
        self._witness.begin()
        number = self._log.begin(**about, start=self._time())
        told: dict[str, object] = {}
        try:
            outcome = await call()
        except UnavailableError as error:
            self.errors[f"{about['op']}: {type(error).__name__}"] += 1
            told["outcome"] = "unknown" if _may_have_happened(error) else "unsent"
        else:
            told["outcome"] = _outcome(about["op"], outcome)
            if about["op"] == "read":
                told["got"] = outcome
            elif about["op"] == "add":
                told["value"] = outcome  # for whoever looks for what went wrong
        end, stamps = self._time(), self._witness.stamps()
        self._log.line(n=number, end=end, stamps=stamps, **told)


def _outcome(op, outcome):
    if op == "read":
        return "read"
    is_deferred = getattr(outcome, "name", "") == DeleteOutcome.DEFERRED.name
    return "deferred" if is_deferred else "stored"


def _may_have_happened(error):
    if isinstance(error, OperationTimeoutError):
        return error.sent
    return isinstance(error, OutcomeUnknownError)


async def command() -> None:
    """Return with the next line of standard input, or its end."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.readline()
    transport.close()


def told(conflict) -> dict[str, object]:
    """Return what the checker wants to know of a conflict."""
    return {
        "tenant": conflict.tenant_id,
        "name": conflict.identifier,
        "local": conflict.local_stamp,
        "remote": conflict.remote_stamp,
    }


async def main(config: dict[str, Any]) -> None:
    """Call until told to end, then drain."""
    witness, log = Witness(), CallLog(Path(config["log"]))
    witness.watch()
    async with CrewRedis(CrewSettings(**config["settings"])) as crew:
        name = Path(config["log"]).stem
        callers = [
            Caller(crew, log, witness, f"{name}.{at}", Random(f"{config['seed']}{at}"))
            for at in range(config["callers"])
        ]
        is_over = asyncio.Event()

        async def work(caller: Caller) -> None:
            while not is_over.is_set():
                await caller.call()
                await asyncio.sleep(config["pause"])

        log.line(ready=True)
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(work(caller))
            await command()
            is_over.set()
        is_drained = True
        try:
            await crew.journal.drained(DRAIN)
        except OperationTimeoutError:
            is_drained = False
        errors = sum((caller.errors for caller in callers), Counter())
        log.line(
            statistics={"drained": is_drained, **crew.journal.statistics().as_dict()},
            conflicts=[told(one) for one in crew.journal.conflicts()],
            errors=errors,
        )
    log.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
