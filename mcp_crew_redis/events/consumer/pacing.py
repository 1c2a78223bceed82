"""When to look for what others have left behind: often after a loss, else seldom."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

__all__ = ["SweepPace"]

REGULAR: Final = 10.0
"""Times `claim_after` between sweeps that nothing in particular asks for."""
BEATS: Final = 4 / 3
"""Times `claim_after` until the last entries of a process that died are old enough: it
may have fetched them just before its end, and shown a sign of life just before that."""
MAX_STEP: Final = 1.0


class SweepPace:
    """Says when the next sweep is due.

    Args:
        claim_after: Seconds without a sign of life after which entries are taken over.
        monotonic: Local seconds.
        random: Spreads the sweeps of processes that started together.
    """

    def __init__(
        self, claim_after: float, monotonic: Callable[[], float], random: Random
    ) -> None:
        self._claim_after = claim_after
        # At the start nobody is known to have died: no need to hurry.
        self._step = claim_after / 6
        self._monotonic = monotonic
        self._random = random
        self.due = monotonic()
        self._until = self.due + claim_after * BEATS + 2 * self._step

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return self.due <= self._monotonic()

    def begin(self) -> None:
        """Sweep now, without hurry."""
        self.due = self._monotonic()

    def hasten(self) -> None:
        """Sweep now, and often until whatever is left now must have been found."""
        now = self._monotonic()
        self._step = min(MAX_STEP, self._claim_after / 4)
        self._until = now + self._claim_after * BEATS + 2 * self._step
        self.due = min(self.due, now)

    def postpone(self) -> None:
        """Sweep in a while, neither sooner nor later: Redis was away for everybody.

        Its consumers could show no sign of life, and it may have forgotten what they
        had acknowledged.
        """
        self.due = self._monotonic() + self._claim_after / 2
        self._until = self.due + self._claim_after * BEATS

    def swept(self) -> None:
        """Take note of a complete sweep."""
        now = self._monotonic()
        if now < self._until:
            self.due = now + self._step
        else:
            self._step = self._claim_after / 6
            regular = self._claim_after * REGULAR
            self.due = now + regular * self._random.uniform(0.8, 1.2)
