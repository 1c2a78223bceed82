"""Rules of what a handler says of an event that it has not handled."""

from __future__ import annotations

import pytest

from mcp_crew_redis.errors import InvalidTtlError
from mcp_crew_redis.events.outcomes import MAX_REASON, Reject, Retry


@pytest.mark.parametrize("after", [None, 0, 0.0, 0.001, 86_400])
def test_a_retry_says_when(after):
    """Or leaves it to the backoff."""
    assert Retry("busy", after=after).after == after


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), 1e12, "1", True])
def test_a_time_that_cannot_be_is_refused(after):
    """Where it is said, not when it is due."""
    with pytest.raises(InvalidTtlError):
        Retry(after=after)


@pytest.mark.parametrize("kind", [Retry, Reject])
def test_a_reason_is_text_and_short(kind):
    """It is kept with the dead letter."""
    assert kind().reason == ""
    assert kind("why").reason == str(kind("why")) == "why"
    assert kind(ValueError("why")).reason == "why"
    assert len(kind("x" * 10_000).reason) == MAX_REASON
