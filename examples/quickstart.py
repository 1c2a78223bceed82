"""A tenant's state: typed, expiring, out of other tenants' reach.

Run it: python examples/quickstart.py

# Output:
{'goal': 'plan the trip', 'step': 1}
nova sees: None
calls so far: 3
connections: 1
"""

import anyio

from mcp_crew_redis import CrewRedis, DataType


async def main() -> None:
    """Keep the state of one tenant on an embedded server."""
    async with CrewRedis.embedded() as crew:
        acme, nova = crew.tenant("acme"), crew.tenant("nova")

        run = {"goal": "plan the trip", "step": 1}
        await acme.set(DataType.STATE, "run:42", run, ttl=600)
        print(await acme.get(DataType.STATE, "run:42"))
        print("nova sees:", await nova.get(DataType.STATE, "run:42"))

        await acme.increment(DataType.COUNTER, "calls", 2)
        print("calls so far:", await acme.increment(DataType.COUNTER, "calls"))

        # A redis.asyncio.Redis, for any library that takes one.
        print("connections:", crew.redis.statistics().dials)


if __name__ == "__main__":
    anyio.run(main)
