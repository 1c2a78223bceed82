"""What a node asks of whoever has a say before a new connection is offered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mcp_crew_redis._core.dialling import Greeting
from mcp_crew_redis._core.lane import Lane

__all__ = ["Greeter"]


class Greeter(Protocol):
    """Uses every new connection before anybody else."""

    @property
    def is_wanted(self) -> bool:
        """Whether a lost connection is to be replaced although nobody calls."""
        ...

    async def greet(
        self, lane: Lane, greeting: Greeting, others: Sequence[Lane]
    ) -> None:
        """Use the lane first.

        Raises:
            DialFailedError: It cannot be offered.
        """
        ...
