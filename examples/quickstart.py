"""One crew, one client, no pool to size. Run it: python examples/quickstart.py.

# Output:
b'hello, crew'
{b'role': b'planner', b'step': b'3'}
100 concurrent reads over 1 connection
ready: True
"""

import anyio

from mcp_crew_redis import CrewRedis


async def main() -> None:
    """Talk to an embedded server through redis-py's own commands."""
    async with CrewRedis.embedded() as crew:
        redis = crew.redis  # a redis.asyncio.Redis, for any library that takes one

        await redis.set("greeting", "hello, crew", ex=60)
        print(await redis.get("greeting"))

        await redis.hset("agent:7", mapping={"role": "planner", "step": 3})
        print(await redis.hgetall("agent:7"))

        async with anyio.create_task_group() as agents:
            for number in range(100):
                agents.start_soon(redis.get, f"memory:{number}")
        print("100 concurrent reads over", redis.statistics().dials, "connection")

        health = await crew.health()
        print("ready:", health.is_ready)


if __name__ == "__main__":
    anyio.run(main)
