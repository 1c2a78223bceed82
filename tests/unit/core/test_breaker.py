"""The circuit breaker: each rule one test, on a clock that stands still."""

from __future__ import annotations

import re
import sys
import tracemalloc
from pathlib import Path
from random import Random

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis._core.breaker import (
    BreakerSettings,
    CircuitBreaker,
    CircuitChange,
    CircuitState,
)
from mcp_crew_redis.errors import (
    CircuitOpenError,
    ConfigurationError,
    LifecycleError,
    UnavailableError,
)


class Bench:
    """A breaker, the clock it reads and the changes it told."""

    def __init__(self, **settings: float) -> None:
        self.now = 1_000.0
        self.changes: list[CircuitChange] = []
        self.breaker = CircuitBreaker(
            BreakerSettings(**settings),
            monotonic=lambda: self.now,
            random=Random(7),
            on_change=self.changes.append,
        )

    @property
    def states(self) -> list[CircuitState]:
        return [change.state for change in self.changes]

    def trip(self, cause: str = "silence") -> None:
        self.breaker.trip(self.breaker.generation, cause)

    def fail(self, count: int = 1) -> None:
        self.breaker.record_failure(self.breaker.generation, "refused", count)

    def succeed(self, count: int = 1, slow: int = 0) -> None:
        self.breaker.record_success(self.breaker.generation, count, slow)

    def recover(self) -> None:
        for _ in range(2):
            self.now += self.breaker.probe_delay()
            self.breaker.probe_succeeded(self.breaker.begin_probe())

    def past_ramp(self) -> None:
        self.now += 2.0
        self.breaker.admit()

    def rejection(self) -> CircuitOpenError:
        with pytest.raises(CircuitOpenError) as caught:
            self.breaker.admit()
        return caught.value


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- what opens it -------------------------------------------------------------


def test_five_hard_failures_in_a_row_open(bench):
    """The fifth consecutive hard failure opens, the fourth does not."""
    bench.fail(4)
    assert bench.breaker.state is CircuitState.CLOSED

    bench.fail()

    assert bench.breaker.state is CircuitState.OPEN
    assert bench.changes[0].cause == "refused"


def test_a_success_breaks_the_row(bench):
    """Only failures without a success between them are consecutive."""
    for _ in range(2):
        bench.fail(4)
        bench.succeed()

    assert bench.breaker.state is CircuitState.CLOSED


def test_a_batch_counts_every_call_in_it(bench):
    """One report of five failures is five failures."""
    bench.fail(5)

    assert bench.breaker.state is CircuitState.OPEN


def test_half_hard_of_twenty_calls_opens(bench):
    """The failure ratio is judged from the twentieth call on."""
    for _ in range(9):
        bench.fail()
        bench.succeed()
    bench.fail()
    assert bench.breaker.state is CircuitState.CLOSED

    bench.succeed()

    assert bench.breaker.state is CircuitState.OPEN
    assert bench.changes[0].cause == "failure_rate"


def test_fewer_than_half_hard_do_not_open(bench):
    """A third of hard failures is bad, but served."""
    for _ in range(60):
        bench.fail()
        bench.succeed(2)

    assert bench.breaker.state is CircuitState.CLOSED


def test_four_fifths_slow_open(bench):
    """Sixteen slow calls of twenty open the circuit."""
    bench.succeed(19, slow=15)
    assert bench.breaker.state is CircuitState.CLOSED

    bench.succeed(1, slow=1)

    assert bench.breaker.state is CircuitState.OPEN
    assert bench.changes[0].cause == "slow_rate"


def test_what_left_the_window_counts_no_more(bench):
    """Failures of ten seconds ago say nothing about now."""
    for _ in range(9):
        bench.fail()
        bench.succeed()
    bench.now += 10.0

    for _ in range(4):
        bench.fail()
    bench.succeed(8)

    assert bench.breaker.state is CircuitState.CLOSED
    assert bench.breaker.statistics().calls == 12


def test_the_window_covers_nine_full_seconds(bench):
    """A call is still counted nine seconds later, and forgotten after ten."""
    bench.succeed(7)

    bench.now += 9.0
    assert bench.breaker.statistics().calls == 7
    bench.now += 1.0
    assert bench.breaker.statistics().calls == 0


def test_a_trip_opens_at_once(bench):
    """A silent lane needs no second opinion."""
    bench.succeed(1_000_000)

    bench.trip("silence")

    assert bench.breaker.state is CircuitState.OPEN
    assert bench.rejection().cause == "silence"


def test_two_refusals_in_a_row_are_tolerated(bench):
    """READONLY twice is a failover going by: no hard failure."""
    for _ in range(50):
        bench.breaker.record_refusal(bench.breaker.generation, "READONLY", 2)
        bench.succeed()

    assert bench.breaker.statistics().hard == 0


def test_repeated_refusals_are_hard_failures(bench):
    """From the third in a row each counts: the seventh is the fifth hard one."""
    token = bench.breaker.generation
    bench.breaker.record_refusal(token, "LOADING", 3)
    for _ in range(3):
        bench.breaker.record_refusal(token, "LOADING")
    assert bench.breaker.statistics().consecutive == 4

    bench.breaker.record_refusal(token, "LOADING")

    assert bench.breaker.state is CircuitState.OPEN
    assert bench.changes[0].cause == "LOADING"


def test_an_empty_batch_is_no_outcome(bench):
    """A report of nothing neither counts nor breaks a row of failures."""
    bench.fail(4)
    bench.succeed(0)
    bench.fail(0)
    bench.breaker.record_refusal(bench.breaker.generation, "LOADING", 0)

    bench.fail()

    assert bench.breaker.state is CircuitState.OPEN


# --- generations ---------------------------------------------------------------


def test_a_late_success_cannot_close_a_newer_circuit(bench):
    """Polly's and resilience4j's bug: the success was admitted before the opening."""
    token = bench.breaker.admit()
    bench.trip()

    bench.breaker.record_success(token, 100)

    assert bench.breaker.state is CircuitState.OPEN


def test_a_late_failure_cannot_open_a_recovered_circuit(bench):
    """Failures of calls sent before the outage say nothing about the new node."""
    token = bench.breaker.admit()
    bench.trip()
    bench.recover()

    bench.breaker.record_failure(token, "reset", 4_096)
    bench.breaker.record_refusal(token, "LOADING", 4_096)
    bench.breaker.trip(token, "silence")

    assert bench.breaker.state is CircuitState.CLOSED
    assert bench.breaker.statistics().calls == 0


def test_one_opening_per_generation(bench):
    """However many of a generation's calls fail, the circuit opens once."""
    token = bench.breaker.admit()
    for _ in range(100):
        bench.breaker.record_failure(token, "reset", 50)
        bench.breaker.trip(token, "silence")

    assert bench.states == [CircuitState.OPEN]


def test_the_probe_generation_is_no_admission(bench):
    """A reply seen by the wire during a probe is no outcome of an admitted call."""
    bench.trip()
    bench.breaker.begin_probe()

    bench.fail(100)
    bench.succeed(100)

    assert bench.breaker.state is CircuitState.HALF_OPEN


# --- while it is open ----------------------------------------------------------


def test_a_rejection_says_when_why_and_since(bench):
    """The error carries the delay to the next probe, the cause and the age."""
    bench.trip("refused")
    delay = bench.breaker.probe_delay()

    error = bench.rejection()
    assert (error.retry_after, error.cause, error.since) == (delay, "refused", 0.0)
    assert isinstance(error, UnavailableError)
    bench.now += 0.5
    assert bench.rejection().since == 0.5


def test_retry_after_is_never_zero(bench):
    """Who obeys it while a probe is under way must not spin."""
    bench.trip()
    bench.now += 1.0
    bench.breaker.begin_probe()

    assert bench.rejection().retry_after == 0.1


def test_each_rejection_is_a_fresh_exception(bench):
    """No shared exception that gathers the traceback of every caller."""
    bench.trip()

    first, second = bench.rejection(), bench.rejection()

    assert first is not second
    assert first.__traceback__ is not None
    assert second.__context__ is None


def test_a_million_rejections_leave_no_memory(bench):
    """Rejecting costs time, never memory: no block more after a million."""
    bench.trip()
    _reject(bench.breaker, 1_000)

    before = sys.getallocatedblocks()
    _reject(bench.breaker, 1_000_000)

    assert sys.getallocatedblocks() - before < 200
    assert bench.breaker.statistics().rejected == 1_001_000


def test_rejections_have_no_peak(bench):
    """Each exception is gone before the next: tracing sees a few kilobytes at most."""
    bench.trip()
    _reject(bench.breaker, 1_000)

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        _reject(bench.breaker, 20_000)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 2_000
    assert peak - before < 20_000


def _reject(breaker: CircuitBreaker, count: int) -> None:
    rejected = 0
    for _ in range(count):
        try:
            breaker.admit()
        except CircuitOpenError:
            rejected += 1
    assert rejected == count


# --- probes --------------------------------------------------------------------


def test_probe_delays_double_up_to_the_cap():
    """U(0.5, 1) * min(0.25 * 2**n, 2): the recovery is noticed within two seconds."""
    bench = Bench()
    bench.trip()

    for full in (0.25, 0.5, 1.0, 2.0, 2.0, 2.0):
        delay = bench.breaker.probe_delay()
        assert full / 2 <= delay <= full
        bench.now += delay
        bench.breaker.probe_failed(bench.breaker.begin_probe(), "refused")


def test_the_timeout_bounds_the_probe_delay():
    """The original setting stays an upper bound, however short."""
    bench = Bench(timeout=0.1)
    bench.trip()

    for _ in range(1_100):  # 2.0**1024 would overflow
        bench.breaker.probe_failed(bench.breaker.begin_probe(), "refused")
        assert 0.05 <= bench.breaker.probe_delay() <= 0.1


def test_probe_delay_counts_down(bench):
    """A restarted probe task waits for the rest, not for the whole delay again."""
    bench.trip()
    delay = bench.breaker.probe_delay()

    bench.now += delay / 2
    assert bench.breaker.probe_delay() == pytest.approx(delay / 2)
    bench.now += delay
    assert bench.breaker.probe_delay() == 0.0


def test_two_good_probes_close(bench):
    """The second follows the first after 100 ms, and closes."""
    bench.trip()

    assert bench.breaker.probe_succeeded(bench.breaker.begin_probe()) is False
    assert bench.breaker.state is CircuitState.HALF_OPEN
    assert bench.breaker.probe_delay() == pytest.approx(0.1)
    assert bench.breaker.probe_succeeded(bench.breaker.begin_probe()) is True

    assert bench.states == [
        CircuitState.OPEN,
        CircuitState.HALF_OPEN,
        CircuitState.CLOSED,
    ]


def test_a_bad_probe_forgets_the_good_one(bench):
    """Two good probes must be consecutive."""
    bench.trip()
    bench.breaker.probe_succeeded(bench.breaker.begin_probe())
    bench.breaker.probe_failed(bench.breaker.begin_probe(), "reset")

    assert bench.breaker.probe_succeeded(bench.breaker.begin_probe()) is False
    assert bench.breaker.state is CircuitState.HALF_OPEN


def test_only_one_probe_at_a_time(bench):
    """A second probe is refused while one is under way."""
    bench.trip()
    bench.breaker.begin_probe()

    assert not bench.breaker.wants_probe
    with pytest.raises(LifecycleError, match="no probe is wanted"):
        bench.breaker.begin_probe()


def test_a_closed_circuit_wants_no_probe(bench):
    """There is nothing to find out."""
    assert not bench.breaker.wants_probe
    with pytest.raises(LifecycleError):
        bench.breaker.begin_probe()


def test_cancelled_probe_returns_its_slot(bench):
    """A cancelled probe is no outcome, and the next may begin at once."""
    bench.trip()
    bench.now += 1.0
    failures = bench.breaker.statistics().failed_probes
    bench.breaker.probe_cancelled(bench.breaker.begin_probe())

    assert bench.breaker.wants_probe
    assert bench.breaker.probe_delay() == 0.0
    assert bench.breaker.statistics().failed_probes == failures
    bench.recover()
    assert bench.breaker.state is CircuitState.CLOSED


def test_a_cancelled_probe_keeps_the_good_one(bench):
    """Good, cancelled, good: that is two good ones in a row."""
    bench.trip()
    bench.breaker.probe_succeeded(bench.breaker.begin_probe())
    bench.breaker.probe_cancelled(bench.breaker.begin_probe())

    assert bench.breaker.probe_succeeded(bench.breaker.begin_probe()) is True


def test_the_outcome_of_a_cancelled_probe_is_ignored(bench):
    """A late report holds neither the slot nor the vote of the probe after it."""
    bench.trip()
    lost = bench.breaker.begin_probe()
    bench.breaker.probe_cancelled(lost)
    current = bench.breaker.begin_probe()

    assert bench.breaker.probe_succeeded(lost) is False
    bench.breaker.probe_failed(lost, "late")
    bench.breaker.probe_cancelled(lost)

    assert bench.breaker.state is CircuitState.HALF_OPEN
    assert not bench.breaker.wants_probe
    assert bench.breaker.probe_succeeded(current) is False
    assert bench.breaker.probe_succeeded(bench.breaker.begin_probe()) is True


def test_every_probe_has_its_own_token(bench):
    """Also those that follow a cancelled one, without a change of state between."""
    bench.trip()

    tokens = [bench.breaker.generation]
    for _ in range(5):
        tokens.append(bench.breaker.begin_probe())
        bench.breaker.probe_cancelled(tokens[-1])

    assert len(set(tokens)) == 6


def test_an_outcome_counts_once(bench):
    """Reporting one good probe twice does not make two."""
    bench.trip()
    token = bench.breaker.begin_probe()
    bench.breaker.probe_succeeded(token)

    assert bench.breaker.probe_succeeded(token) is False
    assert bench.breaker.state is CircuitState.HALF_OPEN


# --- coming back ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("elapsed", "share"), [(0.0, 0.10), (0.5, 0.25), (1.0, 0.50), (1.5, 1.0)]
)
def test_the_ramp_admits_a_growing_share(bench, elapsed, share):
    """10, 25, 50 and 100 % of the calls, in four steps of half a second."""
    bench.trip()
    bench.recover()
    bench.now += elapsed

    admitted = 0
    for _ in range(1_000):
        try:
            bench.breaker.admit()
        except CircuitOpenError:
            continue
        admitted += 1

    assert admitted == pytest.approx(share * 1_000, abs=5)
    assert bench.breaker.is_ramping
    assert not bench.breaker.is_closed


def test_a_rejection_in_the_ramp_names_it(bench):
    """Refused callers wait one step each, so they do not meet at the step's end."""
    bench.trip()
    bench.recover()
    bench.breaker.admit()

    error = bench.rejection()

    assert (error.cause, error.retry_after) == ("ramping", 0.5)


def test_after_the_ramp_everything_is_admitted(bench):
    """The first admission past the ramp sets the flag that the hot path reads."""
    bench.trip()
    bench.recover()

    bench.now += 2.0
    token = bench.breaker.admit()

    assert bench.breaker.is_closed
    assert not bench.breaker.is_ramping
    assert token == bench.breaker.generation


def test_a_report_past_the_ramp_sets_the_flag_too(bench):
    """The flag does not wait for an admission."""
    bench.trip()
    bench.recover()
    bench.now += 2.0

    bench.succeed()

    assert bench.breaker.is_closed


def test_without_a_ramp_the_circuit_closes_fully():
    """`ramp=0` admits everything after the second good probe."""
    bench = Bench(ramp=0.0)
    bench.trip()
    bench.recover()

    assert bench.breaker.is_closed


def test_one_hard_failure_in_the_ramp_opens_again(bench):
    """The ramp is a trial, and the next delay remembers the failed probes."""
    bench.trip()
    for _ in range(2):
        bench.breaker.probe_failed(bench.breaker.begin_probe(), "refused")
    bench.recover()

    bench.fail()

    assert bench.breaker.state is CircuitState.OPEN
    assert bench.breaker.statistics().failed_probes == 2
    assert 0.5 <= bench.breaker.probe_delay() <= 1.0


def test_a_failure_in_a_long_ramp_still_remembers():
    """Thirty seconds of ramp are no thirty seconds of health."""
    bench = Bench(ramp=60.0)
    bench.trip()
    bench.breaker.probe_failed(bench.breaker.begin_probe(), "refused")
    bench.recover()

    bench.now += 45.0
    bench.fail()

    assert bench.breaker.statistics().failed_probes == 1


@pytest.mark.parametrize(("closed_for", "remembered"), [(29.9, 2), (30.0, 0)])
def test_thirty_seconds_closed_forget_failed_probes(bench, closed_for, remembered):
    """A node that stayed well is probed quickly in its next outage."""
    bench.trip()
    for _ in range(2):
        bench.breaker.probe_failed(bench.breaker.begin_probe(), "refused")
    bench.recover()

    bench.now += closed_for
    bench.trip()

    assert bench.breaker.statistics().failed_probes == remembered


def test_closing_forgets_the_outage(bench):
    """The window starts empty, so old failures cannot open the new circuit."""
    bench.fail(4)
    bench.trip()
    bench.recover()
    bench.past_ramp()

    bench.fail(4)

    assert bench.breaker.state is CircuitState.CLOSED


# --- by hand -------------------------------------------------------------------


def test_forced_open_refuses_without_probes(bench):
    """Nothing but a release ends a forced opening."""
    bench.breaker.force_open("maintenance")

    assert bench.rejection().cause == "maintenance"
    assert bench.rejection().retry_after == 60.0
    assert not bench.breaker.wants_probe


def test_forcing_open_drops_the_probe_under_way(bench):
    """Its outcome no longer closes anything."""
    bench.trip()
    bench.breaker.probe_succeeded(bench.breaker.begin_probe())
    token = bench.breaker.begin_probe()

    bench.breaker.force_open("maintenance")
    bench.breaker.force_open("maintenance")

    assert bench.breaker.probe_succeeded(token) is False
    assert bench.states[-1] is CircuitState.FORCED_OPEN
    assert bench.states.count(CircuitState.FORCED_OPEN) == 1


def test_release_lets_probes_decide(bench):
    """A released circuit is open and closes by two good probes."""
    bench.breaker.force_open("maintenance")
    bench.breaker.release()
    assert bench.breaker.state is CircuitState.OPEN
    assert bench.breaker.probe_delay() <= 0.25

    bench.recover()

    assert bench.breaker.state is CircuitState.CLOSED


def test_release_starts_with_quick_probes(bench):
    """Failed probes of before the maintenance say nothing about after it."""
    bench.trip()
    for _ in range(5):
        bench.breaker.probe_failed(bench.breaker.begin_probe(), "refused")

    bench.breaker.force_open("maintenance")
    bench.breaker.release()

    assert bench.breaker.probe_delay() <= 0.25


def test_release_of_what_is_not_forced_does_nothing(bench):
    """An outage is not ended by hand this way."""
    bench.trip()

    bench.breaker.release()

    assert bench.states == [CircuitState.OPEN]


def test_forced_closed_admits_everything(bench):
    """No probe, no ramp; the trip rules go on."""
    bench.trip()
    bench.breaker.force_closed()
    assert bench.breaker.is_closed

    bench.fail(5)

    assert bench.breaker.state is CircuitState.OPEN


def test_forcing_closed_drops_the_probe_under_way(bench):
    """Its failure does not open what was closed by hand."""
    bench.trip()
    token = bench.breaker.begin_probe()

    bench.breaker.force_closed()
    bench.breaker.probe_failed(token, "refused")

    assert bench.breaker.state is CircuitState.CLOSED


def test_forcing_closed_ends_the_ramp(bench):
    """Closed already: no change is told, but the ramp is over."""
    bench.trip()
    bench.recover()
    told = len(bench.changes)

    bench.breaker.force_closed()

    assert bench.breaker.is_closed
    assert len(bench.changes) == told


# --- what it tells -------------------------------------------------------------


def test_a_change_is_told_after_it_has_happened():
    """The listener sees the new state, and may call back."""
    seen: list[tuple[CircuitState, int, bool]] = []

    def listen(change: CircuitChange) -> None:
        seen.append((breaker.state, change.generation, breaker.wants_probe))
        if change.state is CircuitState.OPEN:
            breaker.force_open("maintenance")

    breaker = CircuitBreaker(
        BreakerSettings(), monotonic=lambda: 5.0, random=Random(1), on_change=listen
    )
    breaker.trip(breaker.generation, "silence")

    assert seen == [(CircuitState.OPEN, 2, True), (CircuitState.FORCED_OPEN, 3, False)]


def test_a_failing_listener_harms_nothing():
    """It is logged, and the breaker goes on as if it had returned."""

    def listen(change: CircuitChange) -> None:
        raise RuntimeError(change.cause)

    breaker = CircuitBreaker(
        BreakerSettings(), monotonic=lambda: 5.0, random=Random(1), on_change=listen
    )
    with capture_logs() as logs:
        breaker.trip(breaker.generation, "silence")
        breaker.probe_succeeded(breaker.begin_probe())
        closed = breaker.probe_succeeded(breaker.begin_probe())

    assert closed
    assert [entry["event"] for entry in logs] == ["breaker.listener_failed"] * 3


def test_a_change_names_both_states_cause_and_time(bench):
    """Everything a log line needs is in the change."""
    bench.now = 1_234.5
    bench.trip("silence")

    assert bench.changes == [
        CircuitChange(
            state=CircuitState.OPEN,
            previous=CircuitState.CLOSED,
            cause="silence",
            generation=2,
            at=1_234.5,
        )
    ]


def test_statistics_are_a_snapshot(bench):
    """Counts, cause and age of the outage, frozen."""
    bench.succeed(10, slow=2)
    bench.fail(3)
    bench.trip("silence")
    bench.now += 1.5
    bench.rejection()

    seen = bench.breaker.statistics()

    assert (seen.calls, seen.hard, seen.slow, seen.consecutive) == (13, 3, 2, 3)
    assert (seen.state, seen.cause, seen.open_for) == ("open", "silence", 1.5)
    assert (seen.openings, seen.rejected, seen.is_ramping) == (1, 1, False)


def test_repr_is_a_status_line(bench):
    """One look at a log tells how the circuit stands."""
    assert repr(bench.breaker) == (
        "<CircuitBreaker closed generation=1 openings=0 rejected=0>"
    )
    bench.trip("silence")
    assert "open cause=silence" in repr(bench.breaker)
    bench.recover()
    assert "ramping" in repr(bench.breaker)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", 0),
        ("threshold", 2.5),
        ("minimum_calls", 0),
        ("timeout", 0.0),
        ("timeout", float("inf")),
        ("window", -1.0),
        ("hard_ratio", 0.0),
        ("slow_ratio", 1.1),
        ("slow_ratio", float("nan")),
        ("ramp", -0.1),
        ("slow_after", 0.0),
        ("probe_base", 0.0),
        ("probe_cap", 0.0),
    ],
)
def test_impossible_settings_are_refused(name, value):
    """The message names the field, the value and what is accepted."""
    with pytest.raises(ConfigurationError, match=rf"{name} is {value!r}; give "):
        BreakerSettings(**{name: value})


def test_the_documented_code_runs():
    """docs/breaker.md is one program, and its assertions hold."""
    page = Path(__file__).parents[3] / "docs" / "breaker.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)

    assert len(blocks) == 3
    exec(compile("\n".join(blocks), str(page), "exec"), {"__name__": "breaker_page"})
