"""The breaker's values: states, settings, changes and statistics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from mcp_crew_redis.errors import ConfigurationError

__all__ = [
    "BreakerSettings",
    "BreakerStatistics",
    "CircuitChange",
    "CircuitState",
]


class CircuitState(StrEnum):
    """Where the circuit stands. Only CLOSED admits calls.

    CLOSED -> OPEN                  a trip rule holds
    OPEN -> HALF_OPEN               a probe begins
    HALF_OPEN -> OPEN               the probe failed
    HALF_OPEN -> CLOSED             two probes in a row succeeded
    any -> FORCED_OPEN -> OPEN      `force_open()`, `release()`
    any -> CLOSED                   `force_closed()`
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When to open, how to probe, how to come back. Durations are seconds.

    Attributes:
        threshold: Hard failures in a row that open the circuit.
        timeout: Upper bound of the delay between two probes.
        minimum_calls: Calls in the window below which no ratio is judged.
        hard_ratio: Share of hard failures in the window that opens the circuit.
        slow_ratio: Share of slow calls in the window that opens the circuit.
        window: Length of the sliding window, kept in ten buckets.
        slow_after: Round trip above which the wire reports a call as slow.
        ramp: Time after closing in which only a growing share is admitted; 0 is none.
        probe_base: Delay of the first probe, before jitter.
        probe_cap: Delay that later probes do not exceed.
    """

    threshold: int = 5
    timeout: float = 60.0
    minimum_calls: int = 20
    hard_ratio: float = 0.5
    slow_ratio: float = 0.8
    window: float = 10.0
    slow_after: float = 0.1
    ramp: float = 2.0
    probe_base: float = 0.25
    probe_cap: float = 2.0

    def __post_init__(self) -> None:
        """Refuse values that no breaker could work with.

        Raises:
            ConfigurationError: Names the field, its value and what is accepted.
        """
        for name in ("threshold", "minimum_calls"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value >= 1, name, value, "an int >= 1")
        for name in ("timeout", "window", "slow_after", "probe_base", "probe_cap"):
            value = getattr(self, name)
            _require(isfinite(value) and value > 0, name, value, "seconds > 0")
        for name in ("hard_ratio", "slow_ratio"):
            value = getattr(self, name)
            _require(0 < value <= 1, name, value, "a share in (0, 1]")
        ramp_ok = isfinite(self.ramp) and self.ramp >= 0
        _require(ramp_ok, "ramp", self.ramp, "seconds >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitChange:
    """One change of state, told to `on_change` once, after it has happened.

    Attributes:
        state: The state now.
        previous: The state before; an outage begins where this is CLOSED.
        cause: A short word: what the wire reported, or which rule held.
        generation: The generation that began with this change.
        at: Monotonic seconds.
    """

    state: CircuitState
    previous: CircuitState
    cause: str
    generation: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerStatistics:
    """What the breaker knows, for health reports and metrics.

    Attributes:
        state: The state now.
        is_ramping: Closed, but admitting only a growing share.
        generation: Grows with every change of state and every probe.
        cause: What opened the circuit last; empty if it never opened.
        open_for: Seconds since it left CLOSED; 0 while CLOSED.
        calls: Calls in the window, hard failures included.
        hard: Hard failures in the window.
        slow: Slow calls in the window.
        consecutive: Hard failures since the last success.
        failed_probes: Failed probes that the next delay remembers.
        openings: Times the circuit has left CLOSED.
        rejected: Calls refused by `admit()`.
    """

    state: CircuitState
    is_ramping: bool
    generation: int
    cause: str
    open_for: float
    calls: int
    hard: int
    slow: int
    consecutive: int
    failed_probes: int
    openings: int
    rejected: int


def _require(holds: bool, name: str, value: object, accepted: str) -> None:  # noqa: FBT001 - private
    if not holds:
        raise ConfigurationError(
            f"BreakerSettings.{name} is {value!r}; give {accepted}"
        )
