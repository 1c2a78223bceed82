"""Taking signals over, and giving them back."""

import asyncio
import os
import signal
import threading

import pytest

from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.lifecycle import StopSignals

pytestmark = pytest.mark.timeout(5)


async def test_first_signal_asks_and_later_ones_insist():
    """A signal is counted on the loop, never inside what it interrupted."""
    insisted = asyncio.Event()
    signals = StopSignals(insisted.set)
    signals.install()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await signals.wait()
        assert signals.received == "SIGTERM"
        assert not insisted.is_set()

        os.kill(os.getpid(), signal.SIGTERM)
        await insisted.wait()
    finally:
        signals.restore()


async def test_restore_gives_back_what_was_there():
    """Also twice, and also to handlers that others had set."""

    def theirs(_number, _frame):
        """Stand for another library's handler."""

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        signals = StopSignals(lambda: None)
        signals.install()
        signals.restore()
        signals.restore()

        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_it_says_so():
    """Python hands signals to the main thread only."""
    caught: list[BaseException] = []

    async def install() -> None:
        with pytest.raises(LifecycleError, match="main thread") as error:
            StopSignals(lambda: None).install()
        caught.append(error.value)

    thread = threading.Thread(target=lambda: asyncio.run(install()))
    thread.start()
    thread.join()

    assert len(caught) == 1
