"""Many crews, many starts and stops, cancelled at any time: nothing is left."""

import asyncio

import anyio
import pytest
import structlog

from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.settings import CrewSettings

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def settings(server) -> CrewSettings:
    return CrewSettings(unix_socket=server.unix_socket)


async def _use(crew: CrewRedis, number: int) -> None:
    async with crew:
        await crew.redis.set(f"crew:{number}", number)
        assert await crew.redis.get(f"crew:{number}") == str(number).encode()


async def test_thirty_crews_at_once_leave_nothing(settings, server):
    """Several instances in one loop do not know of each other."""
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(_use, CrewRedis(settings), number)

    assert server.execute("DBSIZE") == 30
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.slow
async def test_ten_crews_start_and_stop_fifty_times_each(settings):
    """Every fifth run is cancelled somewhere between its start and its end."""

    async def live(number: int) -> None:
        crew = CrewRedis(settings)
        for turn in range(50):
            is_cancelled = turn % 5 == number % 5
            with anyio.move_on_after(0.0005 * turn if is_cancelled else None):
                await _use(crew, number)
                if is_cancelled:
                    await anyio.sleep_forever()

    with structlog.testing.capture_logs():
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(live, number)

    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("moment", [0.0, 0.001, 0.005, 0.02, 0.05, 0.2])
async def test_embedded_crew_cancelled_at_any_moment_leaves_no_server(moment):
    """Neither a process nor a socket, whether it was starting, up or ending."""
    with anyio.move_on_after(moment):
        async with CrewRedis.embedded() as crew:
            await crew.redis.ping()
            await anyio.sleep_forever()


async def test_cancelled_task_leaves_no_server():
    """The same for asyncio's own cancellation, repeated."""

    async def user() -> None:
        async with CrewRedis.embedded() as crew:
            await crew.redis.ping()
            await anyio.sleep_forever()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(user())
        for _ in range(10):
            await asyncio.sleep(0.01)
            task.cancel()

    assert task.cancelled()
