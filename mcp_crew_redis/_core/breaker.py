"""The circuit breaker of one node: it decides, others act.

Nothing here waits, sends or starts a task. The wire asks `admit()`, reports what
became of its calls in batches, and owns the task that probes. Every change of state
starts a new generation; what belongs to an older one is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from mcp_crew_redis._core.circuit import (
    BreakerSettings,
    BreakerStatistics,
    CircuitChange,
    CircuitState,
)
from mcp_crew_redis._core.circuit_rules import ProbeSchedule, Ramp, TripRules
from mcp_crew_redis._core.wire_errors import WireCircuitOpenError
from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.log import get_logger

__all__ = [
    "BreakerSettings",
    "BreakerStatistics",
    "CircuitBreaker",
    "CircuitChange",
    "CircuitState",
]

_log = get_logger(__name__)


class CircuitBreaker:
    """Decides whether calls to one node may be sent. Not for use by several threads.

    The wire's hot path may read two plain attributes instead of calling `admit()`:
    `token = b.generation if b.is_closed else b.admit()`.

    Attributes:
        state: Where the circuit stands.
        generation: The token of calls admitted now.
        is_closed: Everything is admitted. The first call past the ramp sets it.

    Args:
        settings: Thresholds and durations.
        monotonic: Seconds that never go back.
        random: The source of the probe delay's jitter.
        on_change: Told every change of state, exactly once and last of all; what it
            raises is logged and goes no further.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        *,
        monotonic: Callable[[], float],
        random: Random,
        on_change: Callable[[CircuitChange], None] | None = None,
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._on_change = on_change
        self._rules = TripRules(settings)
        self._probe = ProbeSchedule(settings, random)
        self._ramp = Ramp()
        self._closed_at = self._opened_at = monotonic()
        self._cause = ""
        self._openings = self._rejected = 0
        self.state = CircuitState.CLOSED
        self.generation = 1
        self.is_closed = True

    def admit(self) -> int:
        """Admit one call, or refuse it without waiting.

        Returns:
            The token to report the call's outcome with.

        Raises:
            CircuitOpenError: Nothing may be sent now, "ramping" just after an outage.
                A new one each time: a shared one would gather tracebacks.
        """
        if self.is_closed:
            return self.generation
        now = self._monotonic()
        if self.state is CircuitState.CLOSED and (
            self._settle(now) or self._ramp.admits(now)
        ):
            return self.generation
        self._rejected += 1
        raise self._rejection(now)

    def record_success(self, token: int, count: int = 1, slow: int = 0) -> None:
        """Report `count` replies, `slow` of them later than `slow_after`."""
        if count > 0 and self._is_current(token):
            now = self._monotonic()
            self._settle(now)
            self._open_if(self._rules.success(now, count, slow), now)

    def record_failure(self, token: int, cause: str, count: int = 1) -> None:
        """Report `count` hard failures: refused, reset, our timeout, protocol error.

        Not for error replies, cancelled calls or a caller's own shorter deadline:
        they say nothing about the node and are not reported at all.
        """
        if count > 0 and self._is_current(token):
            now = self._monotonic()
            reason = self._rules.failure(now, count, cause)
            # The ramp is a trial: its first failure ends it.
            self._open_if(reason if self._settle(now) else cause, now)

    def record_refusal(self, token: int, code: str, count: int = 1) -> None:
        """Report replies such as LOADING, READONLY, MASTERDOWN or CLUSTERDOWN.

        The node lives but does not serve. The third in a row without a success
        between, and each that follows it, is a hard failure with `code` as cause.
        """
        if count > 0 and self._is_current(token):
            self.record_failure(token, code, self._rules.refusal(count))

    def trip(self, token: int, cause: str) -> None:
        """Open at once: a silent lane, or a failed dial with no connection alive."""
        if self._is_current(token):
            self._open_if(cause, self._monotonic())

    # --- probes, made by a task of the wire ----------------------------------------

    @property
    def wants_probe(self) -> bool:
        """Whether the circuit is open or half-open with no probe under way."""
        is_down = self.state in (CircuitState.OPEN, CircuitState.HALF_OPEN)
        return is_down and self._probe.token is None

    def probe_delay(self) -> float:
        """Return the seconds left until the next probe is due; 0 if it is due."""
        return max(0.0, self._probe.due_at - self._monotonic())

    def begin_probe(self) -> int:
        """Take the only probe slot.

        Returns:
            The token to report with exactly one of `probe_succeeded`,
            `probe_failed` or `probe_cancelled`.

        Raises:
            LifecycleError: A probe is under way, or none is wanted.
        """
        if not self.wants_probe:
            raise LifecycleError(f"no probe is wanted: {self!r}")
        token = self.generation + 1
        self._probe.begin(token, self._monotonic())
        if self.state is CircuitState.OPEN:
            self._change(CircuitState.HALF_OPEN, "probe", self._monotonic())
        else:
            self.generation = token  # so that a cancelled probe's token is of the past
        return token

    def probe_succeeded(self, token: int) -> bool:
        """Report a good probe; return whether it, the second in a row, has closed."""
        now = self._monotonic()
        if token != self._probe.token or not self._probe.succeeded(now):
            return False
        self._close("recovered", now, ramp=self._settings.ramp)
        return self.state is CircuitState.CLOSED

    def probe_failed(self, token: int, cause: str) -> None:
        """Report a bad probe: open again, and wait longer for the next."""
        if token == self._probe.token:
            now = self._monotonic()
            self._probe.failed(now)
            self._cause = cause
            self._change(CircuitState.OPEN, cause, now)

    def probe_cancelled(self, token: int) -> None:
        """Return the probe slot; the state stays and the next probe is due at once."""
        if token == self._probe.token:
            self._probe.token = None

    # --- by hand -------------------------------------------------------------------

    def force_open(self, cause: str) -> None:
        """Refuse everything, without probes, until `release()` or `force_closed()`."""
        now = self._monotonic()
        self._cause = cause
        self._probe.token = None
        if self.state is CircuitState.CLOSED:
            self._openings += 1
            self._opened_at = now
        if self.state is not CircuitState.FORCED_OPEN:
            self._change(CircuitState.FORCED_OPEN, cause, now)

    def release(self) -> None:
        """End a forced opening: OPEN, and probes decide. Otherwise do nothing."""
        if self.state is CircuitState.FORCED_OPEN:
            now = self._monotonic()
            self._probe.failures = 0
            self._probe.restart(now)
            self._change(CircuitState.OPEN, "released", now)

    def force_closed(self) -> None:
        """Admit everything now, without probes or ramp; the trip rules go on."""
        self._close("forced", self._monotonic(), ramp=0.0)

    @property
    def is_ramping(self) -> bool:
        """Whether the circuit is closed but admits only a growing share."""
        is_closed = self.state is CircuitState.CLOSED
        return is_closed and not self._settle(self._monotonic())

    def statistics(self) -> BreakerStatistics:
        """Return a frozen snapshot."""
        now = self._monotonic()
        rules = self._rules
        rules.slide(now)
        is_down = self.state is not CircuitState.CLOSED
        return BreakerStatistics(
            state=self.state,
            is_ramping=self.is_ramping,
            generation=self.generation,
            cause=self._cause,
            open_for=now - self._opened_at if is_down else 0.0,
            calls=rules.calls,
            hard=rules.hard,
            slow=rules.slow,
            consecutive=rules.consecutive,
            failed_probes=self._probe.failures,
            openings=self._openings,
            rejected=self._rejected,
        )

    def __repr__(self) -> str:
        state = "ramping" if self.is_ramping else self.state.value
        cause = "" if self.state is CircuitState.CLOSED else f" cause={self._cause}"
        return (
            f"<CircuitBreaker {state}{cause} generation={self.generation} "
            f"openings={self._openings} rejected={self._rejected}>"
        )

    def _is_current(self, token: int) -> bool:
        return token == self.generation and self.state is CircuitState.CLOSED

    def _settle(self, now: float) -> bool:
        """Return whether a closed circuit is past its ramp, and remember that it is."""
        if not self.is_closed:
            self.is_closed = self._ramp.is_over(now)
        return self.is_closed

    def _rejection(self, now: float) -> WireCircuitOpenError:
        cause, retry_after = self._cause, self._probe.retry_after(now)
        if self.state is CircuitState.CLOSED:
            cause, retry_after = "ramping", self._ramp.step
        elif self.state is CircuitState.FORCED_OPEN:
            retry_after = self._settings.timeout
        age = now - self._opened_at
        return WireCircuitOpenError(retry_after, cause=cause, since=age)

    def _open_if(self, cause: str | None, now: float) -> None:
        if cause is None:
            return
        if self._settle(now):
            self._probe.forgive(now - self._closed_at)
        self._probe.restart(now)
        self._openings += 1
        self._opened_at = now
        self._cause = cause
        self._change(CircuitState.OPEN, cause, now)

    def _close(self, cause: str, now: float, *, ramp: float) -> None:
        self._rules.clear()
        self._ramp.start(now, ramp)
        self._probe.token = None
        self._closed_at = now
        if self.state is CircuitState.CLOSED:
            self.is_closed = True
        else:
            self._change(CircuitState.CLOSED, cause, now)

    def _change(self, state: CircuitState, cause: str, now: float) -> None:
        """Enter `state`. The last step of every change: the listener may call back."""
        previous, self.state = self.state, state
        self.generation += 1
        self.is_closed = state is CircuitState.CLOSED and self._ramp.is_over(now)
        if self._on_change is None:
            return
        change = CircuitChange(
            state=state,
            previous=previous,
            cause=cause,
            generation=self.generation,
            at=now,
        )
        try:
            self._on_change(change)
        except Exception as error:  # noqa: BLE001 - who reports must not die of a listener
            name = type(error).__name__
            _log.warning("breaker.listener_failed", state=state.value, error=name)
