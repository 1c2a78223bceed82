"""The breaker against a model that recounts everything from a list.

The model keeps every outcome and knows no buckets, no shortcuts and no caches; time
moves in sixteenths of a second, so both sides compute exactly.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from mcp_crew_redis._core.breaker import (
    BreakerSettings,
    CircuitBreaker,
    CircuitChange,
    CircuitState,
)
from mcp_crew_redis.errors import CircuitOpenError, LifecycleError

THRESHOLD, MINIMUM, RAMP = 4, 8, 2.0
COUNTS = st.integers(min_value=0, max_value=6)
DOWN = (CircuitState.OPEN, CircuitState.HALF_OPEN)


class Model:
    """What the breaker must do, written as plainly as possible."""

    def __init__(self) -> None:
        self.state = CircuitState.CLOSED
        self.failed_probes = 0
        self.good_probes = 0
        self.probe: int | None = None
        self.close(0.0, ramp=0.0)

    def close(self, now: float, *, ramp: float) -> None:
        self.state = CircuitState.CLOSED
        self.closed_at = now
        self.ramp = ramp
        self.probe = None
        self.row = 0
        self.refusals = 0
        self.outcomes: list[tuple[float, str]] = []

    def open(self, now: float) -> None:
        if now - self.closed_at >= 30.0:
            self.failed_probes = 0
        self.state = CircuitState.OPEN
        self.good_probes = 0

    def is_ramping(self, now: float) -> bool:
        return self.state == "closed" and now < self.closed_at + self.ramp

    def report(self, now: float, outcome: str, count: int, slow: int = 0) -> None:
        if outcome == "ok":
            self.row = self.refusals = 0
        self.outcomes += [(now, outcome)] * (count - slow) + [(now, "slow")] * slow
        recent = [kind for at, kind in self.outcomes if at // 1 > now // 1 - 10]
        hard, slow = recent.count("hard"), recent.count("slow")
        is_judged = len(recent) >= MINIMUM
        if outcome == "hard":
            self.row += count
        is_row = outcome == "hard" and self.row >= THRESHOLD
        is_trial = outcome == "hard" and self.is_ramping(now)
        is_ratio = 2 * hard >= len(recent) or 10 * slow >= 8 * len(recent)
        if is_row or is_trial or (is_judged and is_ratio):
            self.open(now)

    def refuse(self, now: float, count: int) -> None:
        self.refusals += count
        hard = min(count, max(0, self.refusals - 2))
        if hard:
            self.report(now, "hard", hard)


class BreakerMachine(RuleBasedStateMachine):
    """Drives both sides with tokens of the present and of the past."""

    tokens = Bundle("tokens")
    probes = Bundle("probes")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.changes: list[CircuitChange] = []
        self.probe_tokens: set[int] = set()
        self.model = Model()
        self.breaker = CircuitBreaker(
            BreakerSettings(threshold=THRESHOLD, minimum_calls=MINIMUM, ramp=RAMP),
            monotonic=lambda: self.now,
            random=Random(3),
            on_change=self.listen,
        )

    def listen(self, change: CircuitChange) -> None:
        self.changes.append(change)
        if len(self.changes) % 3 == 0:
            raise RuntimeError("a listener that fails")

    def counts(self, token: int) -> bool:
        return token == self.breaker.generation and self.model.state == "closed"

    # --- calls -------------------------------------------------------------------

    @rule(sixteenths=st.integers(min_value=1, max_value=40))
    def time_passes(self, sixteenths):
        self.now += sixteenths / 16

    @rule(seconds=st.sampled_from([9.0, 10.0, 30.0, 1_000.0]))
    def much_time_passes(self, seconds):
        self.now += seconds

    @rule(target=tokens)
    def read_generation(self):
        return self.breaker.generation

    @rule()
    def admit(self):
        if self.model.state != "closed":
            with pytest.raises(CircuitOpenError) as caught:
                self.breaker.admit()
            assert caught.value.retry_after >= 0.1
        elif self.model.is_ramping(self.now):
            with suppress(CircuitOpenError):
                assert self.breaker.admit() == self.breaker.generation
        else:
            assert self.breaker.admit() == self.breaker.generation
            assert self.breaker.is_closed

    @rule(count=COUNTS, slow=COUNTS)
    def succeed_now(self, count, slow):
        self.succeed(self.breaker.generation, count, slow)

    @rule(count=COUNTS)
    def fail_now(self, count):
        self.fail(self.breaker.generation, count)

    @rule(count=COUNTS)
    def refuse_now(self, count):
        self.refuse(self.breaker.generation, count)

    @rule(token=tokens, count=COUNTS, slow=COUNTS)
    def succeed(self, token, count, slow):
        slow = min(count, slow)
        if count and self.counts(token):
            self.model.report(self.now, "ok", count, slow)
        self.breaker.record_success(token, count, slow)

    @rule(token=tokens, count=COUNTS)
    def fail(self, token, count):
        if count and self.counts(token):
            self.model.report(self.now, "hard", count)
        self.breaker.record_failure(token, "reset", count)

    @rule(token=tokens, count=COUNTS)
    def refuse(self, token, count):
        if self.counts(token):
            self.model.refuse(self.now, count)
        self.breaker.record_refusal(token, "LOADING", count)

    @rule(token=tokens)
    def trip(self, token):
        if self.counts(token):
            self.model.open(self.now)
        self.breaker.trip(token, "silence")

    @rule()
    def trip_now(self):
        self.trip(self.breaker.generation)

    # --- probes ------------------------------------------------------------------

    @precondition(lambda self: self.model.state in DOWN and self.model.probe is None)
    @rule(target=probes)
    def begin_probe(self):
        self.now += self.breaker.probe_delay()
        self.now = -(-self.now * 16 // 1) / 16  # back onto the grid
        token = self.breaker.begin_probe()
        assert token not in self.probe_tokens
        self.probe_tokens.add(token)
        self.model.probe = token
        self.model.state = CircuitState.HALF_OPEN
        return token

    @precondition(lambda self: not self.breaker.wants_probe)
    @rule()
    def begin_unwanted_probe(self):
        with pytest.raises(LifecycleError):
            self.breaker.begin_probe()

    @rule(token=probes)
    def probe_succeeds(self, token):
        has_closed = False
        if token == self.model.probe:
            self.model.probe = None
            self.model.good_probes += 1
            has_closed = self.model.good_probes == 2
            if has_closed:
                self.model.close(self.now, ramp=RAMP)
        assert self.breaker.probe_succeeded(token) is has_closed

    @precondition(lambda self: self.model.probe is not None)
    @rule()
    def current_probe_succeeds(self):
        self.probe_succeeds(self.model.probe)

    @precondition(lambda self: self.model.state in DOWN)
    @rule()
    def recover(self):
        while self.model.state in DOWN:
            if self.model.probe is None:
                self.begin_probe()
            self.probe_succeeds(self.model.probe)

    @rule(token=probes)
    def probe_fails(self, token):
        if token == self.model.probe:
            self.model.probe = None
            self.model.good_probes = 0
            self.model.failed_probes += 1
            self.model.state = CircuitState.OPEN
        self.breaker.probe_failed(token, "refused")

    @rule(token=probes)
    def probe_is_cancelled(self, token):
        if token == self.model.probe:
            self.model.probe = None
        self.breaker.probe_cancelled(token)

    @precondition(lambda self: self.model.probe is not None)
    @rule()
    def current_probe_fails(self):
        self.probe_fails(self.model.probe)

    @precondition(lambda self: self.model.probe is not None)
    @rule()
    def current_probe_is_cancelled(self):
        self.probe_is_cancelled(self.model.probe)

    # --- by hand -----------------------------------------------------------------

    @rule()
    def force_open(self):
        self.model.state = CircuitState.FORCED_OPEN
        self.model.probe = None
        self.breaker.force_open("maintenance")

    @rule()
    def release(self):
        if self.model.state == "forced_open":
            self.model.state = CircuitState.OPEN
            self.model.failed_probes = self.model.good_probes = 0
        self.breaker.release()

    @rule()
    def force_closed(self):
        self.model.close(self.now, ramp=0.0)
        self.breaker.force_closed()

    # --- laws --------------------------------------------------------------------

    @invariant()
    def agrees_with_the_model(self):
        seen, model = self.breaker.statistics(), self.model
        assert seen.state is model.state
        assert seen.is_ramping == model.is_ramping(self.now)
        assert seen.failed_probes == min(model.failed_probes, 64)
        assert self.breaker.wants_probe == (model.state in DOWN and model.probe is None)

    @invariant()
    def the_hot_path_flag_means_closed(self):
        if self.breaker.is_closed:
            assert self.model.state == "closed"
            assert not self.model.is_ramping(self.now)

    @invariant()
    def counters_are_bounded(self):
        seen = self.breaker.statistics()
        assert 0 <= seen.hard <= seen.calls
        assert 0 <= seen.slow <= seen.calls
        if self.model.state == "closed":
            recent = [
                at for at, _ in self.model.outcomes if at // 1 > self.now // 1 - 10
            ]
            assert seen.calls == len(recent)
            assert seen.consecutive < THRESHOLD
        assert self.breaker.probe_delay() <= 2.0

    @invariant()
    def changes_form_one_chain(self):
        previous, generation = CircuitState.CLOSED, 1
        for change in self.changes:
            assert change.previous is previous
            assert change.state is not previous
            assert change.generation > generation
            previous, generation = change.state, change.generation
        assert previous is self.breaker.state
        assert generation <= self.breaker.generation

    @invariant()
    def closes_only_by_two_good_probes_or_by_hand(self):
        for change in self.changes:
            if change.state is CircuitState.CLOSED and change.cause != "forced":
                assert change.previous is CircuitState.HALF_OPEN
                assert change.cause == "recovered"


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, derandomize=True
)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 15, 16, 17, 48]),  # sixteenths that pass before
        st.sampled_from(["ok", "ok", "hard", "refused"]),
        st.integers(min_value=1, max_value=3),
        st.integers(min_value=0, max_value=3),
    ),
    min_size=5,
    max_size=60,
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(steps=STEPS)
def test_a_closed_circuit_opens_exactly_when_the_recount_says_so(steps):
    """Buckets, running sums and shortcuts give the same verdict as a plain list."""
    machine = BreakerMachine()
    for sixteenths, outcome, count, slow in steps:
        machine.now += sixteenths / 16
        if outcome == "ok":
            machine.succeed(machine.breaker.generation, count, slow)
        elif outcome == "hard":
            machine.fail(machine.breaker.generation, count)
        else:
            machine.refuse(machine.breaker.generation, count)
        machine.agrees_with_the_model()
        machine.counters_are_bounded()
        if machine.model.state != "closed":
            return
