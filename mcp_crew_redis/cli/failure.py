"""How a command says that it did not succeed, and how long it waits until then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TextIO

import anyio

from mcp_crew_redis.errors import CrewRedisError

__all__ = ["DemoError", "ReaderGoneError", "Steps", "last_line", "leaves", "reason_of"]


class DemoError(Exception):
    """The demo cannot go on; the message is for the user, remedy included."""


class ReaderGoneError(Exception):
    """Nobody reads our standard output any more, as after `| head -1`."""


class Steps:
    """One deadline that moves on with the work, so that every step is bounded.

    Not one scope per step: a connection opened in one step is used in the next, and
    what opens it may hold a cancel scope of its own.

    Raises:
        DemoError: On leaving, when a step ran out of its time; names the step.
    """

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._timeout = math.inf
        self.doing = "starting"

    def __enter__(self) -> Self:
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise DemoError(f"{self.doing} took longer than {self._timeout:g} s")

    def begin(self, doing: str, timeout: float) -> None:
        """Start the step `doing`, which has `timeout` seconds."""
        self.doing = doing
        self._timeout = timeout
        self._scope.deadline = anyio.current_time() + timeout

    def rest(self, doing: str) -> None:
        """Wait for somebody else: no deadline until the next step."""
        self.doing = doing
        self._scope.deadline = math.inf


def reason_of(error: BaseException) -> str | None:
    """Return what to tell the user, or None when the error is a fault of ours.

    Task groups wrap what happens in them, and the MCP SDK has several, one in another.
    """
    causes = list(leaves(error))
    for kind in (DemoError, CrewRedisError):
        for cause in causes:
            if isinstance(cause, kind):
                return str(cause)
    return None


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that an exception group holds, or the error itself."""
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for inner in error.exceptions:
        yield from leaves(inner)


def last_line(log: TextIO) -> str:
    """Return the last thing that a child process wrote to its standard error."""
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1] if lines else ""
