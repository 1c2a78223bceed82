"""What the wire knows of itself, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_crew_redis._core.circuit import BreakerStatistics

__all__ = ["LaneStatistics", "NodeStatistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatistics:
    """Figures of one lane.

    Attributes:
        sent: Commands handed to the transport.
        answered: Replies received.
        pending: Commands whose reply is outstanding, buffered ones included.
        waiting: Callers waiting for room.
        pushes: Out-of-band messages received.
    """

    sent: int
    answered: int
    pending: int
    waiting: int
    pushes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatistics:
    """Figures of one node.

    Attributes:
        address: Host and port, or the socket's path.
        server: Name and version of the server, empty before the first connection.
        circuit: The circuit's own figures.
        interactive: The lane of small commands.
        bulk: The lane of large ones.
        dials: Connections made for lanes.
        dial_failures: Dials that failed.
        strays: Given-up connections not yet confirmed dead.
        kill_refused: The server forbids CLIENT KILL: strays cannot be ruled out.
    """

    address: str
    server: str
    circuit: BreakerStatistics
    interactive: LaneStatistics
    bulk: LaneStatistics
    dials: int
    dial_failures: int
    strays: int
    kill_refused: bool
