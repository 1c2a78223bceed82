"""Stamps: a hybrid logical clock that tells which of two writes is the newer one.

A stamp is microseconds since 1970 as the server's clock has it, and more: it never goes
back, no two of one clock are equal, and it is later than every stamp this clock has
seen. So a write made after a read is newer than what was read; two blind writes within
the error of the clocks count as concurrent.
"""

from __future__ import annotations

from typing import Final

from mcp_crew_redis._wire.header import MAX_STAMP
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import DataError

__all__ = ["MAX_LEAD_US", "SLEW_RATE", "HybridClock"]

MAX_LEAD_US: Final = 5_000_000
"""A stamp read that is further ahead than this, in microseconds, is not followed."""

SLEW_RATE: Final = 0.5
"""Microseconds given back per microsecond passed: stamps run at half speed until an
offset that was too large is gone, so 10 ms too many are absorbed in 20 ms."""


class HybridClock:
    """Gives stamps; follows the server's clock and every stamp it is shown.

    Pure: it reads the given clock and keeps numbers. One per node and event loop; not
    for use from several threads.

    Until the first `calibrate`, stamps follow this machine's wall clock.
    """

    __slots__ = (
        "_clock",
        "_error_us",
        "_excess_at",
        "_excess_us",
        "_ignored_count",
        "_last",
        "_monotonic",
        "_offset_us",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._offset_us = round((clock.wall() - clock.monotonic()) * 1e6)
        self._excess_us = 0  # what the clock shows above its offset, still to slew
        self._excess_at = 0.0
        self._error_us: int | None = None
        self._last = 0
        self._ignored_count = 0

    def __repr__(self) -> str:
        error = "uncalibrated" if self._error_us is None else f"±{self._error_us} µs"
        return f"<HybridClock {error}, last {self._last}>"

    @property
    def last(self) -> int:
        """The newest stamp given or followed; 0 before the first."""
        return self._last

    @property
    def error_us(self) -> int | None:
        """Half the round trip of the measurement in use; None before the first."""
        return self._error_us

    @property
    def ignored_count(self) -> int:
        """How many stamps were too far ahead to be followed."""
        return self._ignored_count

    def stamp(self) -> int:
        """Return a stamp later than every one given or followed before.

        Raises:
            DataError: The clock has passed the year 2255: stamps end at 2^53.
        """
        now = self._offset_us + int(self._monotonic() * 1e6)
        if self._excess_us:
            now += self._remaining_us()
        last = self._last
        stamp = now if now > last else last + 1
        if stamp > MAX_STAMP:
            raise DataError("the clock is past the year 2255, where stamps end")
        self._last = stamp
        return stamp

    def now_us(self) -> int:
        """Return the server's time as believed here, in microseconds since 1970.

        It gives no stamp away: two calls may return the same.
        """
        now = self._offset_us + int(self._monotonic() * 1e6)
        return now + self._remaining_us() if self._excess_us else now

    def follow(self, stamp: int) -> int:
        """Take note of a stamp that was read; later stamps will be above it.

        Returns:
            0 when it was followed; else by how many microseconds it is ahead, which is
            over 5 s: it was ignored and counted, and the caller should log that.
        """
        if stamp <= self._last:
            return 0
        lead = stamp - self.now_us()
        if lead > MAX_LEAD_US or stamp >= MAX_STAMP:
            self._ignored_count += 1
            return max(lead, 1)
        self._last = stamp
        return 0

    def rebase(self, step_us: int) -> None:
        """Move the stamps given so far, because whoever got them moves them too.

        After the first `calibrate`, with what it returned: until then stamps are this
        machine's wall clock, which may be wrong by hours.
        """
        self._last = max(0, self._last + step_us)
        self._excess_us = 0

    def calibrate(self, server_us: int, sent_at: float, received_at: float) -> int:
        """Measure the offset from one `TIME` command, by the middle of its round trip.

        A larger offset is taken at once; a smaller one is reached at `SLEW_RATE`, so
        that stamps neither go back nor stand still. The very first one is taken at
        once if no stamp has been given yet. A measurement that cannot tell more than
        the one in use (a slower round trip which the present offset satisfies) changes
        nothing.

        Args:
            server_us: The server's answer in microseconds since 1970.
            sent_at: The clock's monotonic seconds when the command was sent.
            received_at: And when its answer came.

        Returns:
            The server's time minus what was believed, in microseconds.

        Raises:
            DataError: The answer is no time, or the round trip ends before it starts.
        """
        if not 0 < server_us <= MAX_STAMP or not sent_at <= received_at:
            raise DataError("a server's TIME lies between 1970 and 2255, in that order")
        error_us = round((received_at - sent_at) * 5e5)
        present = self._offset_us + self._remaining_us()
        measured = server_us - round((sent_at + received_at) * 5e5)
        step = measured - present
        known = self._error_us
        if known is not None and abs(step) <= error_us and known < error_us:
            return step
        self._error_us = error_us
        self._offset_us = measured
        is_fresh = known is None and self._last == 0
        self._excess_us = 0 if step >= 0 or is_fresh else -step
        self._excess_at = self._monotonic()
        return step

    def _remaining_us(self) -> int:
        if self._excess_us == 0:
            return 0
        passed_us = (self._monotonic() - self._excess_at) * 1e6
        remaining = self._excess_us - int(passed_us * SLEW_RATE)
        if remaining > 0:
            return remaining
        self._excess_us = 0
        return 0
