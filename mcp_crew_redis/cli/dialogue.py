"""What the demo's two processes say to each other: one line of JSON per message.

first -> second    an Assignment, as its only argument; then an Order a line; the end
                   of standard input ends the second process
second -> first    {"read": [...]} once, then {"rung": {...}} for each change and
                   {"done": {...}} for each order: Work, empty but for STOP and TELL
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from mcp_crew_redis.cli.agents import Work
from mcp_crew_redis.cli.items import Reading

__all__ = ["Assignment", "Order", "Readings", "Ring", "message", "readings_of"]

Readings = dict[tuple[str, str, str], Reading]
"""What was read, by tenant, type and identifier."""


class Order(StrEnum):
    """What the second process does when it is told to."""

    WORK = "work"  # let agents work, as the first process does
    BOARD = "board"  # write all of what both processes write
    STOP = "stop"  # stop the agents, wait for the journal, tell all
    TELL = "tell"  # tell what was published, and what subscribers have heard so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Where the second process looks, and for whom.

    Attributes:
        socket: Path of the server's unix socket.
        db: Database.
        prefix: What every key begins with.
        tenants: Whose values to read.
    """

    socket: str
    db: int
    prefix: str
    tenants: tuple[str, ...]

    def to_json(self) -> str:
        """Return it as an argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Take what `to_json` has made."""
        said = json.loads(text)
        return cls(**said | {"tenants": tuple(said["tenants"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """The bell has told the second process of a changed value.

    Attributes:
        tenant_id: Whose it is.
        identifier: Its name.
        heard_at: Unix time, in seconds, when the bell told.
        digest: Of what was read then; "" when there was nothing.
    """

    tenant_id: str
    identifier: str
    heard_at: float
    digest: str


def message(
    *, read: Readings | None = None, rung: Ring | None = None, done: Work | None = None
) -> str:
    """Return one line."""
    if rung is not None:
        return json.dumps({"rung": asdict(rung)})
    if done is not None:
        return json.dumps({"done": asdict(done)})
    rows = [[*name, asdict(reading)] for name, reading in (read or {}).items()]
    return json.dumps({"read": rows})


def readings_of(said: Mapping[str, Any]) -> Readings:
    """Take a `read` message."""
    return {
        (tenant_id, data_type, identifier): Reading(**reading)
        for tenant_id, data_type, identifier, reading in said["read"]
    }
