"""Time on a lane: one timer, armed for the oldest command without an answer.

A timer per command would cost more than the command. All commands of one write share a
mark; replies come in order, so the oldest mark tells everything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import Any, Final, Protocol

from mcp_crew_redis._core.lane_keeper import EndedLane, LaneKeeper
from mcp_crew_redis._core.wire_errors import WireTimeoutError
from mcp_crew_redis._core.wire_settings import WireSettings

__all__ = ["LaneWatch"]

NEVER = float("inf")


# The commands up to number `end` had left by time `at`, when so many chunks had been
# received (as many later means silence since), under this token. A plain tuple: one is
# made for every write, and a class takes five times as long.
_Mark = tuple[int, float, int, int]
END: Final = 0
AT: Final = 1
CHUNKS: Final = 2
TOKEN: Final = 3


class _Watched(EndedLane, Protocol):
    """What the watch needs of its lane."""

    pending: deque[asyncio.Future[Any]]
    chunks: int
    token: int

    @property
    def answered(self) -> int: ...

    @property
    def refusals(self) -> int: ...

    def ping(self) -> None: ...

    def end(self, cause: str) -> None: ...


class LaneWatch:
    """Times out, ends and measures one lane. Owns the lane's only timer.

    Attributes:
        marks: Unanswered writes, oldest first; the lane looks at the first one's end.
    """

    def __init__(
        self,
        lane: _Watched,
        keeper: LaneKeeper,
        settings: WireSettings,
        slow_after: float,
    ) -> None:
        self.marks: deque[_Mark] = deque()
        self._lane = lane
        self._keeper = keeper
        self._timeout = settings.command_timeout
        self._idle_ping = settings.idle_ping
        self._slow_after = slow_after
        self._timer: asyncio.TimerHandle | None = None
        self._due = NEVER
        self._expired = 0  # commands up to this number have had their timeout
        self._measured = 0  # commands up to this number have been measured
        self._reported = 0  # replies told to the lane's keeper
        self._refusals = 0  # of which are told
        self._slow = 0
        self._token = 0  # of the latest answered write
        self.heard = 0.0  # when the last complete answer came

    def start(self) -> None:
        """Begin; the lane is attached to the running loop."""
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()
        self._arm(self.heard + self._idle_ping)

    def stop(self) -> int:
        """End the timer, report what is left; return the oldest unanswered's token."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._report()
        token = self.marks[0][TOKEN] if self.marks else self._token
        self.marks.clear()
        return token

    def wrote(self, end: int) -> None:
        """Note that commands up to number `end` leave now."""
        now, lane = self._loop.time(), self._lane
        self.marks.append((end, now, lane.chunks, lane.token))
        if self._due > now + self._timeout:
            self._arm(now + self._timeout)

    def passed(self, answered: int) -> None:
        """Drop the marks that are answered; count the commands that took too long."""
        marks = self.marks
        self.heard = now = self._loop.time()
        while marks and marks[0][END] <= answered:
            end, at, _, self._token = marks.popleft()
            if now - at > self._slow_after:
                self._slow += end - self._measured
            self._measured = end

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = when
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        now, marks = self._loop.time(), self.marks
        self._due = NEVER
        self._report()
        if not marks:
            self._idle(now)
            return
        if now >= marks[0][AT] + 2 * self._timeout:
            self._lane.end("no answer")
            return
        due = [mark for mark in marks if mark[AT] + self._timeout <= now]
        if due and due[-1][END] > self._expired:
            self._expire(due)
        if marks:  # the lane may have been ended by what it was just told
            undue = (m[AT] + self._timeout for m in marks if m[END] > self._expired)
            kill_at = marks[0][AT] + 2 * self._timeout
            self._arm(min(next(undue, kill_at), kill_at))

    def _expire(self, due: list[_Mark]) -> None:
        """Give the commands of these marks their timeout; their slots stay."""
        lane, end = self._lane, due[-1][END]
        answered = lane.answered
        start = max(self._expired, answered) - answered
        slots = islice(lane.pending, start, end - answered)
        late = [slot for slot in slots if not slot.done()]
        self._expired = end
        for slot in late:
            slot.set_exception(WireTimeoutError(self._timeout, sent=True))
            slot.exception()  # its caller may be gone: asyncio need not say so
        is_silent = due[0][CHUNKS] == lane.chunks
        self._keeper.lane_late(
            lane, len(late), is_silent=is_silent, token=due[0][TOKEN]
        )

    def _idle(self, now: float) -> None:
        """Prove with a PING, once in a while, that a quiet connection is alive.

        So a path that died in silence is found within `idle_ping` and a timeout.
        """
        due = self.heard + self._idle_ping
        if now >= due:
            self._keeper.lane_idle(self._lane)
            self._lane.ping()  # arms the timer by its write
        else:
            self._arm(due)

    def _report(self) -> None:
        """Tell of the replies since the last time; refusals are no successes."""
        answered, refusals = self._lane.answered, self._lane.refusals
        count = answered - self._reported - (refusals - self._refusals)
        self._reported, self._refusals = answered, refusals
        if count > 0:
            slow, self._slow = min(self._slow, count), 0
            self._keeper.lane_measured(count, slow, token=self._token)
