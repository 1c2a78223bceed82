"""The values that callers of one batch are told, for any amounts."""

from hypothesis import given
from hypothesis import strategies as st

from mcp_crew_redis.store.tally import INT64_MAX, INT64_MIN, Call, Tally, shares

INT64 = st.integers(INT64_MIN, INT64_MAX)
ENDS = st.sampled_from([INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX])
AMOUNTS = st.lists(st.one_of(st.integers(-5, 5), INT64, ENDS), min_size=1, max_size=20)


def calls_of(amounts):
    return [Call(amount, 1) for amount in amounts]


def is_int64(value):
    return INT64_MIN <= value <= INT64_MAX


@given(base=INT64, amounts=st.lists(st.integers(1, 5), min_size=1, max_size=50))
def test_positive_amounts_give_increasing_values(base, amounts):
    """In order of arrival, the last one being what the server says."""
    results = shares(calls_of(amounts), base + sum(amounts))

    assert results == sorted(set(results))
    assert results[-1] == base + sum(amounts)


@given(base=st.one_of(INT64, ENDS), amounts=AMOUNTS)
def test_values_are_those_of_some_order_within_64_bits(base, amounts):
    """Whenever begin and end are within 64 bits, so is everything between."""
    value = base + sum(amounts)
    if not is_int64(value):
        return

    results = shares(calls_of(amounts), value)

    assert all(is_int64(result) for result in results)
    # Each went from some caller's value, or from the base, to its own.
    starts = sorted(r - a for r, a in zip(results, amounts, strict=True))
    assert sorted([*starts, value]) == sorted([base, *results])


@given(amounts=AMOUNTS)
def test_a_batch_takes_as_many_as_fit_into_64_bits(amounts):
    """In order, at least one, and nobody is lost."""
    tally, calls = Tally(b"k", b"f"), calls_of(amounts)
    tally.waiting = dict.fromkeys(calls)
    order = []
    while tally.waiting:
        taken = tally.take()
        assert taken
        assert is_int64(sum(call.amount for call in taken))
        order += taken

    assert order == calls
