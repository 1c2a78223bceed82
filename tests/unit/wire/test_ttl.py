"""Rules of times to live."""

from __future__ import annotations

import math
from random import Random

import pytest

from mcp_crew_redis._wire.keys import KeySpace, MetaKey
from mcp_crew_redis._wire.ttl import (
    DEFAULT_KINDS,
    TTL_TABLE,
    InvalidTtlError,
    TtlPolicy,
    is_permanent,
    ttl_ms,
)
from mcp_crew_redis.errors import ConfigurationError, DataError
from mcp_crew_redis.types import DataType, EmbeddingType, Importance, KnowledgeType

HOUR, DAY = 3_600, 86_400


@pytest.fixture
def policy():
    return TtlPolicy(random=Random(7))


@pytest.mark.parametrize(
    ("data_type", "kind", "seconds"),
    [
        (DataType.TOOLS, "mongodb", 8 * HOUR),
        (DataType.TOOLS, "redis", 4 * HOUR),
        (DataType.TOOLS, "chatwoot", 2 * HOUR),
        (DataType.TOOLS, "qdrant", 4 * HOUR),
        (DataType.TOOLS, "any-other-mcp", 4 * HOUR),
        (DataType.TOOLS, None, 4 * HOUR),
        (DataType.CONVERSATION, Importance.HIGH, 7 * DAY),
        (DataType.CONVERSATION, "medium", 3 * DAY),
        (DataType.CONVERSATION, "low", DAY),
        (DataType.CONVERSATION, None, 3 * DAY),
        (DataType.KNOWLEDGE, KnowledgeType.PRODUCT, 30 * DAY),
        (DataType.KNOWLEDGE, "procedure", 30 * DAY),
        (DataType.KNOWLEDGE, "customer", 14 * DAY),
        (DataType.KNOWLEDGE, "general", 7 * DAY),
        (DataType.KNOWLEDGE, "market", 3 * DAY),
        (DataType.KNOWLEDGE, None, 7 * DAY),
        (DataType.EVENT, None, DAY),
        (DataType.EVENT, "alert", 7 * DAY),
        (DataType.EVENT, "audit", 7 * DAY),
        (DataType.EVENT, "telemetry", HOUR),
        (DataType.EMBEDDING, EmbeddingType.DOCUMENT, 30 * DAY),
        (DataType.EMBEDDING, "query", 6 * HOUR),
        (DataType.EMBEDDING, "conversation", 3 * DAY),
        (DataType.SESSION, "idle", HOUR / 2),
        (DataType.SESSION, "absolute", DAY),
        (DataType.TASK, "result", HOUR),
        (DataType.TASK, "dead_letter", 7 * DAY),
        (DataType.TASK, "idempotency", DAY),
        (DataType.CACHE, None, HOUR),
        (DataType.STATE, None, DAY),
        (DataType.COUNTER, None, DAY),
    ],
)
def test_table_holds_what_was_decided(policy, data_type, kind, seconds):
    """Each row of the design's table."""
    assert seconds == policy.seconds(data_type, kind)


def test_every_data_type_has_a_row_or_a_window():
    """A new type cannot be forgotten here."""
    assert set(TTL_TABLE) == set(DataType) - {DataType.RATE_LIMIT}
    assert {kind: DEFAULT_KINDS[kind] in TTL_TABLE[kind] for kind in TTL_TABLE} == (
        dict.fromkeys(TTL_TABLE, True)
    )


def test_jitter_is_within_five_percent_and_is_used(policy):
    """What was written together does not expire together."""
    drawn = [policy.milliseconds(DataType.CACHE) for _ in range(1_000)]

    assert min(drawn) >= 3_420_000
    assert max(drawn) <= 3_780_000
    assert max(drawn) - min(drawn) > 300_000
    assert all(isinstance(ms, int) for ms in drawn)


def test_same_random_gives_the_same_times():
    """Chance is injected, so a test can pin it."""
    first, second = (TtlPolicy(random=Random(3)) for _ in range(2))

    assert [first.milliseconds(DataType.CACHE) for _ in range(9)] == [
        second.milliseconds(DataType.CACHE) for _ in range(9)
    ]


def test_explicit_ttl_wins_and_is_exact(policy):
    """No jitter on what the caller asked for, whatever the kind."""
    assert policy.milliseconds(DataType.CACHE, ttl=86_400) == 86_400_000
    assert policy.milliseconds(DataType.KNOWLEDGE, kind="market", ttl=0.25) == 250
    assert policy.milliseconds(DataType.RATE_LIMIT, ttl=1) == 1_000


@pytest.mark.parametrize(
    "ttl", [0, -1, -0.0, math.nan, math.inf, -math.inf, 0.0001, 3.2e9, 10**400, 1e308]
)
def test_ttl_out_of_range_says_what_is_accepted(ttl):
    """Zero, negative, no number, centuries: one error with the range."""
    with pytest.raises(InvalidTtlError, match=r"0\.001 to 315360000") as caught:
        ttl_ms(ttl)

    assert isinstance(caught.value, DataError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("ttl", ["60", True, None, b"1", [1]])
def test_ttl_of_another_type_is_refused(policy, ttl):
    """Seconds are a number; True is none."""
    with pytest.raises(InvalidTtlError, match="seconds"):
        ttl_ms(ttl)


def test_ttl_bounds_are_included():
    """From a millisecond to ten years."""
    assert ttl_ms(0.001) == 1
    assert ttl_ms(315_360_000) == 315_360_000_000


@pytest.mark.parametrize("kind", ["", "vital", "HIGH", "mongodb"])
def test_unknown_kind_names_the_accepted_ones(policy, kind):
    """The message lists the kinds, it does not repeat the caller's."""
    with pytest.raises(DataError, match="accepted: high, low, medium"):
        policy.seconds(DataType.CONVERSATION, kind)


def test_tools_take_the_name_of_any_mcp(policy):
    """But not no name at all."""
    assert policy.seconds(DataType.TOOLS, "my-own-mcp") == 4 * HOUR
    with pytest.raises(DataError):
        policy.seconds(DataType.TOOLS, "")


def test_rate_limit_state_lives_two_windows(policy):
    """It has no row of its own."""
    assert policy.window_ms(60) == 120_000
    with pytest.raises(DataError, match="window"):
        policy.milliseconds(DataType.RATE_LIMIT)
    with pytest.raises(InvalidTtlError):
        policy.window_ms(0)


def test_overrides_change_one_row_each():
    """By type and kind, or by type alone for the usual kind; the table stays."""
    changed = TtlPolicy(
        {"tools.mongodb": 60, "cache": 5, "knowledge": 9, "tools.new": 7},
        random=Random(1),
    )

    assert changed.seconds(DataType.TOOLS, "mongodb") == 60
    assert changed.seconds(DataType.TOOLS, "redis") == 4 * HOUR
    assert changed.seconds(DataType.TOOLS, "new") == 7
    assert changed.seconds(DataType.CACHE) == 5
    assert changed.seconds(DataType.KNOWLEDGE, "general") == 9
    assert TTL_TABLE[DataType.CACHE]["default"] == HOUR


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("nonsense", 1, "accepted are"),
        ("", 1, "accepted are"),
        ("cache.other", 1, "kinds of cache are default"),
        ("tools.", 1, "kinds of tools"),
        ("cache", 0, "0.001 to"),
        ("cache", "soon", "seconds"),
        ("rate_limit", 5, "accepted are"),
    ],
)
def test_bad_override_names_itself_and_what_is_accepted(name, seconds, message):
    """A setting that cannot be meant is refused at the start."""
    with pytest.raises(ConfigurationError, match=message):
        TtlPolicy({name: seconds}, random=Random(1))


def test_permanent_keys_are_the_named_ones_only():
    """The registry, floors and event types; nothing else, in no other prefix."""
    space = KeySpace()
    keys = space.tenant("a")

    assert is_permanent(space, space.tenants)
    assert is_permanent(space, keys.meta(MetaKey.FLOOR))
    assert is_permanent(space, keys.meta(MetaKey.TYPES))
    assert not is_permanent(space, keys.key("meta", "else"))
    assert not is_permanent(space, keys.key("state", "floor"))
    assert not is_permanent(space, b"other:tenants")
