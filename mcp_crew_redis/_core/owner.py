"""Tasks with an owner: the one place in the wire that starts them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from mcp_crew_redis.log import get_logger

__all__ = ["TaskOwner"]

log = get_logger(__name__)


class TaskOwner:
    """Holds background tasks, reports their crashes and ends them.

    A client is used outside any task group of ours (it is a plain redis-py client to
    the libraries that get it), so it cannot borrow a parent: it brings this one.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[object, object, None], name: str) -> None:
        """Run `work` until it ends or the owner is closed."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("wire.task_crashed", task=task.get_name(), exc_info=error)

    async def aclose(self, deadline: float = 5.0) -> None:
        """Cancel every task and wait up to `deadline` seconds for their ends."""
        tasks = {task for task in self._tasks if task is not asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=deadline)
