"""Which server is the master: what the sentinels say, and what is believed of it.

Pure decisions, no input or output. A sentinel may be behind (it was cut off and still
names the old master), in the middle of a failover, or wrongly configured; it numbers
the configurations it knows, and the highest number is the newest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from mcp_crew_redis._core.wire_errors import (
    WireConfigurationError,
    WireConnectionLostError,
)
from mcp_crew_redis.errors import ConfigurationError

__all__ = [
    "DOWN",
    "Fault",
    "MasterNotFoundError",
    "MasterUnknownError",
    "Place",
    "Report",
    "SentinelSettings",
    "Verdict",
    "decide",
]

DOWN = frozenset({"s_down", "o_down"})
SHORTEST, LONGEST = 0.01, 60.0  # seconds between two questions to a sentinel


class MasterNotFoundError(WireConnectionLostError):
    """No server is known to be the master now; nothing was sent."""


class MasterUnknownError(WireConfigurationError):
    """Most of the sentinels answered, and cannot name this master: a wrong setting."""


class Place(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return `host:port`."""
        return f"{self.host}:{self.port}"


class Fault(Enum):
    """Why a sentinel names no master."""

    SILENT = "does not answer"
    UNKNOWN = "does not know the master's name"
    REFUSED = "refuses the question, or is no sentinel"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelSettings:
    """How the master is found.

    Attributes:
        places: Host and port of each sentinel.
        master: The name that the sentinels know the master by.
        interval: Seconds between two questions to each sentinel while the client is
            in use. A master that was replaced is left within this and one round trip
            after the first reachable sentinel knows.

    Raises:
        ConfigurationError: No sentinel, no name, or an interval out of range.
    """

    places: tuple[tuple[str, int], ...]
    master: str
    interval: float = 0.5

    def __post_init__(self) -> None:
        if not self.places or not self.master:
            raise ConfigurationError(
                "REDIS_CREW_SENTINELS and REDIS_CREW_SENTINEL_MASTER come as a pair"
            )
        if not SHORTEST <= self.interval <= LONGEST:
            raise ConfigurationError(
                f"interval={self.interval}: accepted is {SHORTEST} to {LONGEST} seconds"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one sentinel says.

    Attributes:
        place: The master's, None with a fault.
        epoch: The number of the configuration that names it.
        is_suspected: This sentinel alone cannot reach the master.
        is_down: It and enough others agree that the master is down.
        fault: Why there is no place.
    """

    place: Place | None = None
    epoch: int = 0
    is_suspected: bool = False
    is_down: bool = False
    fault: Fault | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is believed. Either a place, or why there is none.

    Attributes:
        place: The master's.
        epoch: The number of its configuration.
        reason: For the caller's error.
        is_final: Asking again will not help: the settings are wrong.
    """

    place: Place | None = None
    epoch: int = 0
    reason: str = ""
    is_final: bool = False

    def found(self) -> Place:
        """Return the place.

        Raises:
            MasterNotFoundError: There is none now.
            MasterUnknownError: There will be none with these settings.
        """
        if self.place is not None:
            return self.place
        raise (MasterUnknownError if self.is_final else MasterNotFoundError)(
            self.reason
        )


def decide(reports: Sequence[Report], *, asked: int, known_epoch: int) -> Verdict:
    """Weigh the reports of `asked` sentinels; those who did not answer may be missing.

    Args:
        reports: Of this moment.
        asked: How many sentinels there are in the settings.
        known_epoch: The newest configuration that this process has followed. An older
            one is believed only if most of the sentinels name it: one sentinel that
            was cut off must not lead back to the old master.
    """
    naming = [report for report in reports if report.place is not None]
    if not naming:
        return _nobody(reports, asked)
    newest = max(report.epoch for report in naming)
    current = [report for report in naming if report.epoch == newest]
    if newest < known_epoch and 2 * len(current) <= asked:
        return Verdict(
            reason=f"the {len(current)} of {asked} sentinels (REDIS_CREW_SENTINELS) "
            "that answer are behind: they name a master that has been replaced"
        )
    ((place, _),) = Counter(report.place for report in current).most_common(1)
    witnesses = [report for report in current if report.place == place]
    if any(report.is_down for report in witnesses) or all(
        report.is_suspected for report in witnesses
    ):
        return Verdict(
            reason="the sentinels (REDIS_CREW_SENTINELS) hold the master down and "
            "have not named another yet"
        )
    return Verdict(place=place, epoch=newest)


def _nobody(reports: Sequence[Report], asked: int) -> Verdict:
    """Say why nobody names a master: down, or asked for what does not exist."""
    unknown = sum(report.fault is Fault.UNKNOWN for report in reports)
    refused = sum(report.fault is Fault.REFUSED for report in reports)
    is_final = 2 * (unknown + refused) > asked
    if unknown >= refused and unknown:
        reason = (
            f"{unknown} of {asked} sentinels (REDIS_CREW_SENTINELS) do not know a "
            "master of this name: check REDIS_CREW_SENTINEL_MASTER"
        )
    elif refused:
        reason = (
            f"{refused} of {asked} addresses in REDIS_CREW_SENTINELS refuse the "
            "question for the master: no sentinels, or sentinels that ask for a "
            "password, which is not supported"
        )
    else:
        reason = f"none of the {asked} sentinels in REDIS_CREW_SENTINELS answers"
    return Verdict(reason=reason, is_final=is_final)
