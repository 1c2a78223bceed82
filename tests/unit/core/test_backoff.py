"""Delays and the retry budget: bounded, spread, and fair."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from mcp_crew_redis._core.backoff import (
    Backoff,
    DecorrelatedJitter,
    RetryBudget,
    full_jitter,
)
from mcp_crew_redis.errors import ConfigurationError


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def random() -> Random:
    return Random(11)


# --- Backoff -------------------------------------------------------------------


def test_delays_double_up_to_the_maximum(random):
    """Without jitter the delays are exact."""
    backoff = Backoff(base=1.0, factor=2.0, maximum=5.0, jitter=False)

    assert [backoff.delay(n, random) for n in range(1, 6)] == [1, 2, 4, 5, 5]


def test_jitter_spreads_from_zero_to_the_full_delay(random):
    """Callers that failed together do not come back together."""
    drawn = [Backoff().delay(3, random) for _ in range(2_000)]

    assert 0.0 <= min(drawn) < 0.1
    assert 3.9 < max(drawn) <= 4.0


def test_a_huge_attempt_number_is_the_maximum(random):
    """No overflow in a task that has been retried for years."""
    assert Backoff(jitter=False).delay(100_000, random) == 300.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base", -1.0),
        ("factor", 0.5),
        ("maximum", 0.5),
        ("maximum", float("inf")),
        ("max_attempts", 0),
    ],
)
def test_impossible_backoffs_are_refused(name, value):
    """The message names the field and the value."""
    with pytest.raises(ConfigurationError, match=rf"Backoff\.{name} is {value!r}"):
        Backoff(**{name: value})


def test_full_jitter_is_bounded_by_its_exponent(random):
    """Between 0 and base * 2**exponent, at most the cap."""
    assert max(full_jitter(2, random) for _ in range(500)) <= 0.2
    assert max(full_jitter(5_000, random) for _ in range(500)) <= 5.0


# --- DecorrelatedJitter ----------------------------------------------------------


def test_decorrelated_delays_stay_between_base_and_cap(random):
    """50 ms to 5 s, and no delay is more than three times the one before."""
    last = 0.05
    for delay in islice(DecorrelatedJitter(random), 1_000):
        assert 0.05 <= delay <= min(5.0, last * 3.0)
        last = delay


def test_decorrelated_delays_reach_the_cap(random):
    """A long outage is dialled rarely."""
    assert max(islice(DecorrelatedJitter(random), 1_000)) == 5.0


def test_reset_starts_again_at_the_base(random):
    """After a success the first delay is short again."""
    jitter = DecorrelatedJitter(random)
    list(islice(jitter, 100))

    jitter.reset()

    assert next(jitter) <= 0.15


def test_two_callers_draw_different_delays():
    """The point of jitter."""
    first = list(islice(DecorrelatedJitter(Random(1)), 20))

    assert first != list(islice(DecorrelatedJitter(Random(2)), 20))


@pytest.mark.parametrize(("base", "cap"), [(0.0, 5.0), (1.0, 0.5)])
def test_impossible_jitter_is_refused(random, base, cap):
    """A base of 0 would never grow."""
    with pytest.raises(ConfigurationError, match="DecorrelatedJitter"):
        DecorrelatedJitter(random, base=base, cap=cap)


# --- RetryBudget -----------------------------------------------------------------


def _drain(budget: RetryBudget) -> int:
    taken = 0
    while budget.withdraw():
        taken += 1
    return taken


def test_three_retries_a_second_need_no_success(time):
    """A quiet caller may still retry."""
    budget = RetryBudget(monotonic=time)
    assert _drain(budget) == 3

    time.now += 1.0

    assert _drain(budget) == 3


def test_idle_time_saves_up_nothing(time):
    """An hour of silence must not become a storm of retries."""
    budget = RetryBudget(monotonic=time)

    time.now += 3_600.0

    assert _drain(budget) == 3


def test_a_tenth_of_the_successes_may_be_retried(time):
    """1,000 successes earn 100 retries."""
    budget = RetryBudget(monotonic=time, minimum_per_second=0.0)

    budget.deposit(1_000)

    assert _drain(budget) == 100


def test_the_budget_is_bounded(time):
    """A good day does not pay for a bad night."""
    budget = RetryBudget(monotonic=time, minimum_per_second=0.0, capacity=500)

    budget.deposit(10_000_000)

    assert _drain(budget) == 500


def test_an_outage_gets_three_retries_a_second(time):
    """Without successes a minute of failures is retried 3 + 180 times at most."""
    budget = RetryBudget(monotonic=time)

    taken = 0
    for _ in range(60 * 16):
        taken += _drain(budget)
        time.now += 1 / 16

    assert 180 <= taken <= 183


def test_a_rate_below_one_still_gathers_a_retry(time):
    """One retry in two seconds is one retry in two seconds."""
    budget = RetryBudget(monotonic=time, minimum_per_second=0.5)
    assert _drain(budget) == 0

    time.now += 2.0

    assert _drain(budget) == 1


def test_repr_shows_what_is_left(time):
    """A status line."""
    assert repr(RetryBudget(monotonic=time)) == "<RetryBudget available=3.0>"


@pytest.mark.parametrize(
    ("name", "value"),
    [("ratio", -0.1), ("minimum_per_second", float("nan")), ("capacity", 0.0)],
)
def test_impossible_budgets_are_refused(time, name, value):
    """The message names the field."""
    with pytest.raises(ConfigurationError, match=rf"RetryBudget\.{name} is"):
        RetryBudget(monotonic=time, **{name: value})
