"""Many values at once, on every server."""

import pytest

from mcp_crew_redis import DataType, WriteOutcome
from mcp_crew_redis.errors import CodecError, DataError, InvalidIdentifierError

pytestmark = pytest.mark.every_server

BOTH = pytest.mark.parametrize("kind", [DataType.KNOWLEDGE, DataType.CACHE])


def round_trips(crew):
    """Pieces of input since the beginning, on both lanes."""
    node = crew.redis.node
    return node.interactive.chunks + node.bulk.chunks


@BOTH
async def test_many_are_set_got_and_deleted(acme, kind):
    """Only what there is comes back."""
    items = {f"item:{n}": n for n in range(1_000)}

    assert await acme.set_many(kind, items) is WriteOutcome.STORED

    names = [*items, "item:none"]
    assert await acme.get_many(kind, names) == items
    assert await acme.delete_many(kind, names) == 1_000
    assert await acme.delete_many(kind, names) == 0
    assert await acme.get_many(kind, names) == {}


@BOTH
async def test_nothing_is_nothing(acme, kind):
    """No items, no command."""
    assert await acme.set_many(kind, {}) is WriteOutcome.STORED
    assert await acme.get_many(kind, []) == {}
    assert await acme.delete_many(kind, []) == 0


@BOTH
async def test_a_batch_is_one_round_trip(crew, acme, kind):
    """A hundred keys wait for one reply, or for a few that come at once."""
    items = {f"item:{n}": n for n in range(100)}
    await acme.set_many(kind, items)
    await acme.delete_many(kind, items)  # the server knows the scripts now
    for call, arguments in (
        (acme.set_many, (items,)),
        (acme.get_many, (list(items),)),
        (acme.delete_many, (list(items),)),
    ):
        before = round_trips(crew)
        await call(kind, *arguments)

        assert round_trips(crew) - before <= 3, call


@BOTH
async def test_an_identifier_named_twice_counts_once(acme, kind):
    """A set of names, whatever order and number."""
    await acme.set_many(kind, {"a": 1})

    assert await acme.get_many(kind, ["a", "a"]) == {"a": 1}
    assert await acme.delete_many(kind, ["a", "a"]) == 1


@BOTH
async def test_each_value_is_checked_before_the_first_is_sent(acme, kind):
    """All or nothing, as far as mistakes go."""
    with pytest.raises(CodecError):
        await acme.set_many(kind, {"good": 1, "bad": object()})
    with pytest.raises(InvalidIdentifierError):
        await acme.set_many(kind, {"good": 1, "": 2})

    assert not await acme.exists(kind, "good")


async def test_values_are_validated_as_the_type_asked_for(acme):
    """As `get` does."""
    await acme.set_many(DataType.STATE, {"a": 1, "b": "x"})

    assert await acme.get_many(DataType.STATE, ["a"], into=int) == {"a": 1}
    with pytest.raises(CodecError):
        await acme.get_many(DataType.STATE, ["a", "b"], into=int)


async def test_every_item_gets_a_time_to_live_of_its_own(acme):
    """What is written together does not expire together."""
    await acme.set_many(
        DataType.KNOWLEDGE, {f"k{n}": n for n in range(20)}, kind="market"
    )

    left = [await acme.ttl(DataType.KNOWLEDGE, f"k{n}") for n in range(20)]

    assert len({round(seconds / 60) for seconds in left}) > 5
    assert all(0.94 * 3 * 86_400 < seconds < 1.06 * 3 * 86_400 for seconds in left)


async def test_large_items_go_in_several_commands(acme):
    """No command holds up the server for long."""
    items = {f"k{n}": bytes([n]) * 400_000 for n in range(6)}

    await acme.set_many(DataType.STATE, items)

    assert await acme.get_many(DataType.STATE, list(items)) == items


async def test_one_name_is_not_a_list_of_letters(acme):
    """The usual slip of the finger is said aloud."""
    with pytest.raises(DataError, match="pass a list"):
        await acme.get_many(DataType.STATE, "abc")
