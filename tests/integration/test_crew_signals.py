"""Signals, in a process of their own: the first drains, the second cuts short."""

import asyncio
import os
import signal
import sys
import textwrap
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

pytestmark = pytest.mark.timeout(30)

PROGRAM = """
    import asyncio, signal, sys
    import anyio, structlog
    from mcp_crew_redis.crew import CrewRedis
    from mcp_crew_redis.settings import CrewSettings

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    class Slow:
        name, needs = "slow", ()
        def build(self, crew, /):
            self.drained = anyio.Event()
            return self
        async def run(self, *, task_status):
            task_status.started()
            await self.drained.wait()
            print("draining", flush=True)
            await anyio.sleep({drain})
            print("drained", flush=True)
        def drain(self):
            self.drained.set()

    async def main():
        before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
        settings = CrewSettings(unix_socket=sys.argv[1], drain_timeout=30)
        async with CrewRedis(settings, services=[Slow()]) as crew:
            # Printed once run_until_stopped() waits: by then it has the signals.
            asyncio.get_running_loop().call_soon(lambda: print("up", flush=True))
            await crew.run_until_stopped()
        after = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
        print("restored" if after == before else "not restored", flush=True)

    asyncio.run(main())
    print("end", flush=True)
"""


@asynccontextmanager
async def program(socket: str, drain: float) -> AsyncIterator[Process]:
    """Run the program until it is up; end it whatever happens."""
    source = textwrap.dedent(PROGRAM).replace("{drain}", str(drain))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", source, socket),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert await line_of(process) == "up"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def rest_of(process: Process) -> list[str]:
    output, errors = await process.communicate()
    assert b"Traceback" not in errors, errors.decode()
    return output.decode().split("\n")[:-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_drains_and_restores_the_handlers(server, number):
    """The process ends by itself, with success, when everything has finished."""
    async with program(server.unix_socket, 0.05) as process:
        process.send_signal(number)

        assert await rest_of(process) == ["draining", "drained", "restored", "end"]
        assert process.returncode == 0


async def test_second_signal_cuts_the_drain_short(server):
    """Nobody has to wait for the drain timeout, nor to kill."""
    async with program(server.unix_socket, 25) as process:
        process.send_signal(signal.SIGTERM)
        assert await line_of(process) == "draining"
        process.send_signal(signal.SIGTERM)

        assert await rest_of(process) == ["restored", "end"]
        assert process.returncode == 0
