"""One of several processes that add to the same counter; see test_counters.py.

Prints one JSON object: the values it was given, how often the outcome was unknown, and
how often nothing was sent.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mcp_crew_redis.errors import (
    OperationTimeoutError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.store.counters import Counters
from tests.integration.store.parts import PREFIX, store

TTL = 600_000
CALLERS = 8


async def main(socket: str, writer: str, seconds: float) -> None:
    """Add 1 as often as possible for `seconds`, then once more to leave no doubt."""
    values: list[int] = []
    failures: Counter[str] = Counter()
    async with store({"unix_socket_path": socket, "protocol": 3}) as context:
        assert context.keys.prefix == PREFIX
        keys, counters = context.keys.tenant("acme"), Counters(context, writer)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds

        async def add() -> bool:
            try:
                values.append(await counters.increment(keys, "n", 1, TTL))
            except UnavailableError as error:
                failures[kind_of(error)] += 1
                await asyncio.sleep(0.01)
                return False
            return True

        async def caller() -> None:
            while loop.time() < end:
                await add()

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())
        async with asyncio.timeout(10):
            while not await add():
                pass
        assert counters.uncertain_count == 0
    sys.stdout.write(json.dumps({"values": values, **failures}))


def kind_of(error: UnavailableError) -> str:
    """Say whether the amount may have been, and so will be, added."""
    sent = isinstance(error, OutcomeUnknownError) or (
        isinstance(error, OperationTimeoutError) and error.sent
    )
    return "unknown" if sent else "unsent"


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
