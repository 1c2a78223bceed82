"""Waiting for something real without sleeping for a guess."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

__all__ = ["wait_until", "wait_until_blocking"]

_INTERVAL = 0.005


async def wait_until(
    predicate: Callable[[], bool | Awaitable[bool]],
    description: str,
    timeout: float = 5.0,  # noqa: ASYNC109 - the failure must carry the description
) -> None:
    """Return as soon as `predicate` holds; fail with `description` after `timeout`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        verdict = predicate()
        if inspect.isawaitable(verdict):
            verdict = await verdict
        if verdict:
            return
        if loop.time() >= deadline:
            raise AssertionError(f"waited {timeout:g} s in vain until {description}")
        await asyncio.sleep(_INTERVAL)


def wait_until_blocking(
    predicate: Callable[[], bool], description: str, timeout: float = 5.0
) -> None:
    """Do the same without a loop: for session fixtures and process control."""
    deadline = time.perf_counter() + timeout
    while not predicate():
        if time.perf_counter() >= deadline:
            raise AssertionError(f"waited {timeout:g} s in vain until {description}")
        time.sleep(_INTERVAL)
