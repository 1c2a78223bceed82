"""The breaker's three parts: when to open, when to probe, how much to let back in."""

from __future__ import annotations

from random import Random

from mcp_crew_redis._core.circuit import BreakerSettings

__all__ = ["ProbeSchedule", "Ramp", "TripRules"]

_BUCKETS = 10
_REFUSALS_TOLERATED = 2  # a failover answers a few; the third in a row counts
_SECOND_PROBE_AFTER = 0.1  # seconds: a good first probe is confirmed soon
_PROBES_TO_CLOSE = 2
_FORGIVEN_AFTER = 30.0  # seconds closed, after which probes start quickly again
_MAX_EXPONENT = 64  # far above any cap; keeps 2.0**n finite in a long outage
_RAMP_SHARES = (0.10, 0.25, 0.50, 1.0)  # in equal steps
_GOLDEN = 2_654_435_761  # 2**32 / golden ratio: spreads a counter evenly (Knuth)
_TWO_32 = 2**32


class TripRules:
    """Counts outcomes and names the rule by which the circuit must open.

    The window is ten buckets and slides by one, so it covers the last nine to ten
    tenths of `window`; memory and time per report are constant.

    Attributes:
        calls: Calls in the window, hard failures included.
        hard: Hard failures in the window.
        slow: Slow calls in the window.
        consecutive: Hard failures since the last success.
    """

    __slots__ = (
        "_buckets",
        "_epoch",
        "_refusals",
        "_settings",
        "_width",
        "calls",
        "consecutive",
        "hard",
        "slow",
    )

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._width = settings.window / _BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.calls = self.hard = self.slow = 0
        self.consecutive = self._refusals = self._epoch = 0
        self._buckets = [[0, 0, 0] for _ in range(_BUCKETS)]

    def success(self, now: float, count: int, slow: int) -> str | None:
        """Count `count` successes, `slow` of them slow; return why to open, or None."""
        self.consecutive = self._refusals = 0
        self._add(now, count, 0, slow)
        return self._ratio_exceeded() if self.slow or self.hard else None

    def failure(self, now: float, count: int, cause: str) -> str | None:
        """Count `count` hard failures; return why to open, or None."""
        self.consecutive += count
        self._add(now, count, count, 0)
        if self.consecutive >= self._settings.threshold:
            return cause
        return self._ratio_exceeded()

    def refusal(self, count: int) -> int:
        """Count `count` refusals; return how many of them are hard failures."""
        tolerated = max(self._refusals, _REFUSALS_TOLERATED)
        self._refusals += count
        return max(0, self._refusals - tolerated)

    def slide(self, now: float) -> None:
        """Drop the buckets that have left the window."""
        epoch = int(now // self._width)
        passed = epoch - self._epoch
        if passed <= 0:
            return
        for offset in range(1, min(passed, _BUCKETS) + 1):
            bucket = self._buckets[(self._epoch + offset) % _BUCKETS]
            self.calls -= bucket[0]
            self.hard -= bucket[1]
            self.slow -= bucket[2]
            bucket[0] = bucket[1] = bucket[2] = 0
        self._epoch = epoch

    def _add(self, now: float, calls: int, hard: int, slow: int) -> None:
        self.slide(now)
        bucket = self._buckets[self._epoch % _BUCKETS]
        bucket[0] += calls
        bucket[1] += hard
        bucket[2] += slow
        self.calls += calls
        self.hard += hard
        self.slow += slow

    def _ratio_exceeded(self) -> str | None:
        # Divided, not multiplied: 28 of 35 must be 0.8 exactly.
        if self.calls < self._settings.minimum_calls:
            return None
        if self.hard / self.calls >= self._settings.hard_ratio:
            return "failure_rate"
        if self.slow / self.calls >= self._settings.slow_ratio:
            return "slow_rate"
        return None


class ProbeSchedule:
    """When the next probe is due, whose turn it is, and how many were good.

    Attributes:
        due_at: Monotonic seconds at which the next probe is due.
        token: The token of the probe under way, or None.
        failures: Failed probes that the next delay remembers.
    """

    __slots__ = (
        "_began_at",
        "_good",
        "_random",
        "_settings",
        "due_at",
        "failures",
        "token",
    )

    def __init__(self, settings: BreakerSettings, random: Random) -> None:
        self._settings = settings
        self._random = random
        self.due_at = self._began_at = 0.0
        self.token: int | None = None
        self.failures = 0
        self._good = 0

    def restart(self, now: float) -> None:
        """Forget good probes and draw the next delay; `failures` lengthen it."""
        settings = self._settings
        delay = settings.probe_base * 2.0**self.failures
        delay = min(delay, settings.probe_cap, settings.timeout)
        self.due_at = now + delay * self._random.uniform(0.5, 1.0)
        self.token = None
        self._good = 0

    def succeeded(self, now: float) -> bool:
        """Count a good probe; return whether that is enough to close."""
        self.token = None
        self._good += 1
        self.due_at = now + _SECOND_PROBE_AFTER
        return self._good >= _PROBES_TO_CLOSE

    def begin(self, token: int, now: float) -> None:
        """Note that the probe with this token begins."""
        self.token, self._began_at = token, now

    def failed(self, now: float) -> None:
        """Count a bad probe and draw a longer delay.

        It counts from the probe's beginning: one that waited for its own timeout has
        waited already, and a recovery would otherwise be noticed that much later.
        """
        self.failures = min(self.failures + 1, _MAX_EXPONENT)
        self.restart(self._began_at)
        pause = min(_SECOND_PROBE_AFTER, self.due_at - self._began_at)
        self.due_at = max(self.due_at, now + pause)

    def forgive(self, closed_for: float) -> None:
        """Start quickly again if the circuit had been closed for long enough."""
        if closed_for >= _FORGIVEN_AFTER:
            self.failures = 0

    def retry_after(self, now: float) -> float:
        """Return the seconds to wait; never 0, so that who obeys does not spin."""
        return max(self.due_at - now, _SECOND_PROBE_AFTER)


class Ramp:
    """Lets 10, 25, 50, then 100 % of the calls through, in equal steps of time."""

    __slots__ = ("_counter", "_length", "_started_at")

    def __init__(self) -> None:
        self.start(0.0, 0.0)

    def start(self, now: float, length: float) -> None:
        """Begin a ramp of `length` seconds; 0 is over at once."""
        self._started_at = now
        self._length = length
        self._counter = 0

    def is_over(self, now: float) -> bool:
        """Whether nothing is held back any more."""
        return now >= self._started_at + self._length

    def admits(self, now: float) -> bool:
        """Whether the next call passes: a hash of its number, so evenly spread."""
        place = self._counter * _GOLDEN % _TWO_32
        self._counter += 1
        return place < _RAMP_SHARES[self._step(now)] * _TWO_32

    @property
    def step(self) -> float:
        """Seconds in which the share surely grows.

        Who is refused waits this long, and not until the step's end: there all of
        them would meet.
        """
        return self._length / len(_RAMP_SHARES)

    def _step(self, now: float) -> int:
        steps = len(_RAMP_SHARES)
        return min(int((now - self._started_at) / self._length * steps), steps - 1)
