"""No pattern and no choice of tenants gives anybody what is not meant for him."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.streams import LANES, stream_key, stream_name
from mcp_crew_redis.events.kinds import Pattern
from mcp_crew_redis.events.subscriptions import ALL_TENANTS, Subscriptions
from tests.integration.events.consuming import consuming
from tests.rig.waiting import wait_until

WORDS = ("a", "b", "ab", "a-b", "a_b")
NAMES = ("t", "t1", "t-1", "u")

types = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(".".join)
tenants = st.sampled_from(NAMES)
patterns = st.builds(
    lambda words, last: ".".join([*words, last]),
    st.lists(st.sampled_from((*WORDS, "*")), max_size=3),
    st.sampled_from((*WORDS, "*", ">")),
)


def matches(pattern, event_type):
    """Say what a pattern means, word by word."""
    wanted, words = pattern.split("."), event_type.split(".")
    if wanted[-1] == ">":
        wanted, words = (
            wanted[:-1],
            words[: len(wanted) - 1]
            + ([] if len(words) >= len(wanted) else ["too short"]),
        )
    return len(wanted) == len(words) and all(
        one in ("*", word) for one, word in zip(wanted, words, strict=True)
    )


@given(pattern=patterns, event_type=types)
def test_a_pattern_means_what_it_says(pattern, event_type):
    """By a model that looks at words."""
    assert Pattern(pattern).matches(event_type) == matches(pattern, event_type)


@given(
    tenant=tenants,
    event_type=types,
    lane=st.integers(0, len(LANES) - 1),
    partition=st.none() | st.integers(0, 255),
)
def test_a_key_says_whose_it_is(tenant, event_type, lane, partition):
    """One stream for each tenant, type, lane and partition, told from its key alone."""
    space = KeySpace("p:")
    key = stream_key(space.tenant(tenant), event_type, lane, partition)

    assert stream_name(space, key) == (tenant, event_type, lane, partition)


@pytest.mark.slow
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    wishes=st.lists(
        st.tuples(
            patterns,
            st.sampled_from(("g", "h")),
            st.none() | st.sets(tenants, min_size=1),
            st.sampled_from((None, "key")),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda wish: wish[1],
    ),
    sent=st.lists(st.tuples(tenants, types), min_size=1, max_size=12),
)
def test_everybody_gets_what_is_meant_for_him_and_nothing_else(server, wishes, sent):
    """Each group all that its pattern and tenants say, once."""
    server.reset()
    asyncio.run(_run(server, wishes, sent))


async def _run(server, wishes, sent):
    got = [[] for _ in wishes]
    table = Subscriptions()
    for place, (pattern, group, names, ordering) in enumerate(wishes):

        async def handle(event, place=place):
            got[place].append((event.tenant_id, event.type, event.payload))

        table.on(pattern, group=group, tenants=names or ALL_TENANTS, ordering=ordering)(
            handle
        )
    published = [(*one, [*one, number]) for number, one in enumerate(sent)]
    wanted = [
        sorted(
            one
            for one in published
            if (names is None or one[0] in names) and matches(pattern, one[1])
        )
        for pattern, _, names, _ in wishes
    ]
    async with consuming(server, table) as (crew, _):
        for tenant, event_type, payload in published:
            await crew.tenant(tenant).events.publish(event_type, payload, key="k")
        await wait_until(
            lambda: all(len(a) >= len(b) for a, b in zip(got, wanted, strict=True)),
            "all is handled",
        )

    assert [sorted(each) for each in got] == wanted
