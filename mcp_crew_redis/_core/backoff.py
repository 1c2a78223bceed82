"""How long to wait before trying again, and how often that is allowed.

Jitter as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): callers
that failed together must not come back together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from random import Random

from mcp_crew_redis.errors import ConfigurationError

__all__ = ["Backoff", "DecorrelatedJitter", "RetryBudget", "full_jitter"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays between the attempts of an event handler or a task.

    Attributes:
        base: Seconds before the second attempt, before jitter.
        factor: By how much each further delay grows.
        maximum: Seconds that no delay exceeds.
        jitter: Draw each delay evenly between 0 and its full length.
        max_attempts: Attempts in all, the first included.
    """

    base: float = 1.0
    factor: float = 2.0
    maximum: float = 300.0
    jitter: bool = True
    max_attempts: int = 5

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ConfigurationError: Names the field, its value and what is accepted.
        """
        _require(_is_number(self.base, 0.0), "Backoff.base", self.base, "seconds >= 0")
        _require(_is_number(self.factor, 1.0), "Backoff.factor", self.factor, ">= 1")
        is_above = _is_number(self.maximum, self.base)
        _require(is_above, "Backoff.maximum", self.maximum, "seconds >= base")
        is_count = _is_number(self.max_attempts, 1)
        _require(is_count, "Backoff.max_attempts", self.max_attempts, "an int >= 1")

    def delay(self, attempt: int, random: Random) -> float:
        """Return the seconds to wait after the failed attempt number `attempt`.

        Args:
            attempt: The attempt that failed, counted from 1.
            random: The source of the jitter.
        """
        ceiling = _exponential(attempt - 1, self.base, self.factor, self.maximum)
        return random.uniform(0.0, ceiling) if self.jitter else ceiling


def full_jitter(
    exponent: int, random: Random, *, base: float = 0.05, cap: float = 5.0
) -> float:
    """Return seconds drawn evenly from 0 to `min(cap, base * 2**exponent)`."""
    return random.uniform(0.0, _exponential(exponent, base, 2.0, cap))


class DecorrelatedJitter:
    """Endless delays for one reconnecting caller, each drawn from the one before.

    The next delay lies evenly between `base` and three times the last, at most `cap`.

    Args:
        random: The source of the jitter.
        base: Seconds that no delay falls below.
        cap: Seconds that no delay exceeds.

    Raises:
        ConfigurationError: `base` is not above 0 or `cap` is below it.
    """

    __slots__ = ("_base", "_cap", "_last", "_random")

    def __init__(self, random: Random, *, base: float = 0.05, cap: float = 5.0) -> None:
        is_positive = _is_number(base, 0.0) and base > 0
        _require(is_positive, "DecorrelatedJitter.base", base, "seconds > 0")
        is_above = _is_number(cap, base)
        _require(is_above, "DecorrelatedJitter.cap", cap, "seconds >= base")
        self._random = random
        self._base = base
        self._cap = cap
        self._last = base

    def __iter__(self) -> Iterator[float]:
        return self

    def __next__(self) -> float:
        drawn = self._random.uniform(self._base, self._last * 3.0)
        self._last = min(self._cap, drawn)
        return self._last

    def reset(self) -> None:
        """Start again at `base`, after a success."""
        self._last = self._base


class RetryBudget:
    """Caps retries at a share of the successes, so that they cannot feed an overload.

    Two bounded purses: successes earn `ratio` each, and a floor refills by
    `minimum_per_second` up to one second's worth, so that a quiet caller may still
    retry while idle time saves up nothing.

    Args:
        ratio: Retries earned per success.
        minimum_per_second: Retries per second that need no success.
        capacity: Earned retries that are kept at most.
        monotonic: Seconds that never go back.

    Raises:
        ConfigurationError: A value is negative or not a number.
    """

    __slots__ = (
        "_capacity",
        "_earned",
        "_floor",
        "_floor_capacity",
        "_minimum",
        "_monotonic",
        "_ratio",
        "_refilled_at",
    )

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        ratio: float = 0.1,
        minimum_per_second: float = 3.0,
        capacity: float = 500.0,
    ) -> None:
        _require(_is_number(ratio, 0.0), "RetryBudget.ratio", ratio, ">= 0")
        is_rate = _is_number(minimum_per_second, 0.0)
        _require(is_rate, "RetryBudget.minimum_per_second", minimum_per_second, ">= 0")
        is_room = _is_number(capacity, 1.0)
        _require(is_room, "RetryBudget.capacity", capacity, ">= 1")
        self._monotonic = monotonic
        self._ratio = ratio
        self._minimum = minimum_per_second
        self._capacity = capacity
        # A rate below 1/s must still gather one whole retry.
        self._floor_capacity = max(minimum_per_second, 1.0)
        self._floor = minimum_per_second
        self._earned = 0.0
        self._refilled_at = monotonic()

    def deposit(self, successes: int) -> None:
        """Earn for `successes` calls that succeeded without a retry."""
        self._earned = min(self._capacity, self._earned + successes * self._ratio)

    def withdraw(self) -> bool:
        """Take one retry; False means: do not retry, fail."""
        if self._earned >= 1.0:
            self._earned -= 1.0
            return True
        self._refill()
        if self._floor >= 1.0:
            self._floor -= 1.0
            return True
        return False

    @property
    def available(self) -> float:
        """Retries that could be taken now."""
        self._refill()
        return self._earned + self._floor

    def __repr__(self) -> str:
        return f"<RetryBudget available={self.available:.1f}>"

    def _refill(self) -> None:
        now = self._monotonic()
        gained = (now - self._refilled_at) * self._minimum
        self._floor = min(self._floor_capacity, self._floor + gained)
        self._refilled_at = now


def _exponential(exponent: int, base: float, factor: float, cap: float) -> float:
    try:
        return min(cap, base * factor ** max(exponent, 0))
    except OverflowError:  # far beyond any cap
        return cap


def _is_number(value: float, least: float) -> bool:
    return isfinite(value) and value >= least


def _require(holds: bool, name: str, value: object, accepted: str) -> None:  # noqa: FBT001 - private
    if not holds:
        raise ConfigurationError(f"{name} is {value!r}; give {accepted}")
