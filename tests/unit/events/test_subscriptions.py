"""Rules of the table of handlers: what it accepts, and that it is only data."""

from __future__ import annotations

import functools

import pytest

from mcp_crew_redis._core.backoff import Backoff
from mcp_crew_redis.errors import (
    ConfigurationError,
    InvalidEventTypeError,
    InvalidIdentifierError,
    InvalidTenantError,
)
from mcp_crew_redis.events.subscriptions import ALL_TENANTS, Subscriptions


async def handle(event):
    """Handle nothing."""


def declared(**options):
    """Return what a declaration with these options puts into the table."""
    table = Subscriptions()
    table.on("a.*", **{"group": "g", **options})(handle)
    [subscription] = table
    return subscription


def test_a_declaration_has_the_usual_values():
    """Those of the documents."""
    made = declared()

    assert made.handler is handle
    assert (made.pattern.text, made.group, made.tenants) == ("a.*", "g", ALL_TENANTS)
    assert (made.is_batch, made.concurrency, made.max_deliveries) == (False, 32, 5)
    assert (made.claim_after, made.timeout, made.backoff) == (30.0, 300.0, Backoff())
    assert (made.ordering, made.start, made.dedup) == (None, "earliest", False)
    assert repr(made) == "<Subscription g a.*>"
    assert repr(ALL_TENANTS) == "ALL_TENANTS"


def test_a_batch_handler_has_fewer_calls_of_more_events():
    """Two lists of up to 256 at a time."""
    made = declared(batch=True)

    assert (made.is_batch, made.batch_size, made.concurrency) == (True, 256, 2)


def test_the_decorated_function_stays_what_it_was():
    """It is called directly in unit tests."""
    assert Subscriptions().on("a", group="g")(handle) is handle


def test_a_table_keeps_its_order_and_may_be_read_while_it_grows():
    """Each consumer sees what was declared when it looked."""
    table = Subscriptions()
    for group in ("one", "two"):
        table.on("a", group=group)(handle)
    seen = iter(table)
    table.on("a", group="three")(handle)

    assert [each.group for each in seen] == ["one", "two"]
    assert len(table) == 3


@pytest.mark.parametrize(
    ("tenants", "is_served"),
    [(ALL_TENANTS, True), (["acme"], True), (("nova",), False), ({"acme", "b"}, True)],
)
def test_a_handler_is_meant_for_its_tenants(tenants, is_served):
    """And for the types of its pattern, of each of them."""
    made = declared(tenants=tenants)

    assert made.wants("acme", "a.b") is is_served
    assert not made.wants("acme", "b.a")


@pytest.mark.parametrize(
    ("tenants", "error"),
    [
        ("acme", ConfigurationError),
        ([], ConfigurationError),
        (["*"], InvalidTenantError),
        ([None], InvalidTenantError),
    ],
)
def test_tenants_are_named_or_all(tenants, error):
    """One string would be its letters, no one nobody."""
    with pytest.raises(error):
        declared(tenants=tenants)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("concurrency", bad) for bad in (0, 10_001, 1.5, True)),
        *(("batch_size", bad) for bad in (0, 10_001, "1")),
        *(("max_deliveries", bad) for bad in (0, 1_000_001, None)),
        *(("claim_after", bad) for bad in (0, 86_401, float("nan"), "30", None, True)),
        *(("timeout", bad) for bad in (0, -1, float("inf"), "1")),
        *(("ordering", bad) for bad in ("type", True)),
        *(("start", bad) for bad in ("now", None, "$")),
        *(("backoff", bad) for bad in (1.0, Backoff)),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    """When it is declared, not when it is used."""
    with pytest.raises(ConfigurationError, match=name):
        Subscriptions().on("a", group="g", **{name: value})


def test_bad_patterns_and_groups_are_refused():
    """By the same rules as everywhere."""
    with pytest.raises(InvalidEventTypeError):
        Subscriptions().on("a.>.b", group="g")
    with pytest.raises(InvalidIdentifierError):
        Subscriptions().on("a", group="a|b")


def test_a_batch_has_no_order_by_key():
    """One list holds events of many keys."""
    with pytest.raises(ConfigurationError, match="batch"):
        Subscriptions().on("a", group="g", batch=True, ordering="key")


def plain(event):
    """Handle nothing."""


async def several(event):
    """Yield, which is not to handle."""
    yield event


class Callable:
    async def __call__(self, event):
        """Handle nothing."""

    async def method(self, event):
        """Handle nothing."""


@pytest.mark.parametrize(
    "handler", [plain, several, Callable(), None, handle], ids=repr
)
def test_only_a_coroutine_function_handles(handler):
    """Neither a plain function, which would block, nor a generator."""
    table = Subscriptions()
    if handler is handle:
        table.on("a", group="g")(handler)
        return
    with pytest.raises(ConfigurationError, match="async def"):
        table.on("a", group="g")(handler)
    assert len(table) == 0


def test_methods_and_partials_handle_too():
    """Handlers may have a state."""
    table = Subscriptions()
    table.on("a", group="g")(Callable().method)
    table.on("a", group="g")(functools.partial(handle))

    assert len(table) == 2
