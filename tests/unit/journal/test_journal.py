"""The journal in memory: what is accepted, what waits, what ends."""

import pytest

from mcp_crew_redis._wire.header import seal, unseal
from mcp_crew_redis.errors import FallbackFullError
from mcp_crew_redis.store.journal.entries import Register
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.tally import INT64_MAX
from tests.unit.journal.parts import delta, posting, register, state, tombstone

MANY = 1_000_000


class Recorder:
    """A keeper that remembers what it was told."""

    is_durable = True
    reason = None

    def __init__(self):
        self.kept = {}
        self.log = []

    @staticmethod
    def name(entry):
        number = getattr(entry, "sequence", getattr(entry, "id", None))
        return entry.name, number

    def put(self, entry):
        self.kept[self.name(entry)] = state(entry)
        self.log.append("put")

    def drop(self, entry):
        self.kept.pop(self.name(entry), None)
        self.log.append("drop")

    async def committed(self):
        """Nothing to wait for."""

    def close(self):
        """Nothing to close."""


@pytest.fixture
def keeper():
    return Recorder()


@pytest.fixture
def journal(keeper):
    return Journal(keeper=keeper)


def of_tenant(tenant, name, stamp=1_000):
    return Register.of(name.encode(), tenant, seal(stamp, b"v", 9_000))


def batch(journal):
    return journal.batch(MANY, MANY)


# --- registers --------------------------------------------------------------------


def test_a_later_write_takes_the_place_of_an_earlier_one(journal):
    """One entry of one key, and it has waited since the first."""
    journal.put(register(stamp=1_000))
    later = register(stamp=2_000, value=b"longer")
    journal.put(later)

    assert journal.registers == {b"a": later}
    assert (journal.depth, journal.size) == (1, later.size)
    assert later.since_us == 1_000
    assert journal.accepted == 2


def test_an_earlier_write_that_comes_late_replaces_nothing(journal, keeper):
    """The newest stamp stands, whoever arrives last: as in Redis."""
    later = register(stamp=2_000)
    journal.put(later)
    journal.put(register(stamp=1_000, value=b"late"))

    assert journal.registers == {b"a": later}
    assert (journal.depth, journal.size) == (1, later.size)
    assert keeper.kept[b"a", None] == state(later)


def test_a_delete_takes_the_place_of_a_value(journal):
    """It is a write like any other."""
    journal.put(register(stamp=1_000))
    grave = tombstone(stamp=2_000)
    journal.put(grave)

    assert journal.registers == {b"a": grave}


def test_writes_are_accepted_all_or_none():
    """One that does not fit takes the others with it."""
    journal = Journal(max_entries=2)
    journal.put(register("a"))

    with pytest.raises(FallbackFullError):
        journal.put(register("b"), register("c"))

    assert list(journal.registers) == [b"a"]
    assert journal.depth == 1


def test_a_full_journal_still_takes_a_write_of_a_key_it_has():
    """Nothing grows by it."""
    journal = Journal(max_entries=1)
    journal.put(register(stamp=1_000))
    journal.put(register(stamp=2_000))

    assert journal.registers[b"a"].stamp == 2_000


def test_a_journal_full_of_bytes_refuses_what_grows_and_takes_what_shrinks():
    """The limit counts keys, values and bookkeeping."""
    first = register(stamp=1_000, value=b"x" * 100)
    journal = Journal(max_bytes=first.size)
    journal.put(first)

    with pytest.raises(FallbackFullError, match="bytes"):
        journal.put(register(stamp=2_000, value=b"x" * 101))
    journal.put(register(stamp=3_000, value=b"x" * 99))

    assert journal.registers[b"a"].stamp == 3_000


def test_an_error_names_the_limit_and_no_value():
    """Whoever reads it in a log learns what to do, and no secret."""
    journal = Journal(max_entries=0)

    with pytest.raises(FallbackFullError) as caught:
        journal.put(register(value=b"secret"))

    assert "0 entries" in str(caught.value)
    assert "secret" not in str(caught.value)


# --- deltas -----------------------------------------------------------------------


def test_amounts_of_one_writer_join(journal):
    """Until they are sent they are one."""
    journal.add(delta(sequence=1, amount=2))
    journal.add(delta(sequence=2, amount=3))

    (only,) = journal.deltas[b"n"]
    assert (only.sequence, only.amount) == (1, 5)
    assert journal.depth == 1


def test_nothing_joins_what_was_sent(journal):
    """A frozen sum may stand in Redis already."""
    first = delta(sequence=1, amount=2)
    journal.add(first)
    journal.freeze(first, 7)
    journal.add(delta(sequence=2, amount=3))

    assert [one.amount for one in journal.deltas[b"n"]] == [2, 3]


def test_what_was_sent_joins_nothing(journal):
    """Its number is the only proof that it was added: with another, it counts twice."""
    journal.add(delta(sequence=2, amount=3))
    sent = delta(sequence=1, amount=2)
    sent.is_frozen = True
    journal.add(sent)

    assert {(one.sequence, one.amount) for one in journal.deltas[b"n"]} == {
        (1, 2),
        (2, 3),
    }


def test_a_writers_numbers_wait_in_their_order(journal):
    """The server refuses a number below the last: it would be lost."""
    for sequence in (2, 1, 3):
        sent = delta(sequence=sequence)
        sent.is_frozen = True
        journal.add(sent)

    assert [one.sequence for one in journal.deltas[b"n"]] == [1, 2, 3]


def test_amounts_of_two_writers_do_not_join(journal):
    """Each has its own numbers."""
    other = delta(sequence=1)
    other.writer = "w2"
    journal.add(delta(sequence=1))
    journal.add(other)

    assert len(journal.deltas[b"n"]) == 2


def test_a_sum_beyond_64_bits_begins_anew(journal):
    """No number is sent that the server could not read."""
    journal.add(delta(sequence=1, amount=INT64_MAX))
    journal.add(delta(sequence=2, amount=1))

    assert [one.amount for one in journal.deltas[b"n"]] == [INT64_MAX, 1]


def test_freezing_tells_the_keeper(journal, keeper):
    """Or another process would number it anew."""
    one = delta()
    journal.add(one)
    journal.freeze(one, 7)

    assert keeper.kept[b"n", 1] == state(one)
    assert keeper.log == ["put", "put"]


# --- batches ----------------------------------------------------------------------


def test_a_batch_has_at_most_one_entry_of_a_key(journal):
    """The second of a counter waits for the first one's answer."""
    first = delta(sequence=1)
    journal.add(first)
    journal.freeze(first, 7)
    journal.add(delta(sequence=2))

    assert batch(journal) == [first]
    assert not journal.has_work

    journal.remove(first)
    assert [one.sequence for one in batch(journal)] == [2]


def test_a_batch_ends_with_its_bytes(journal):
    """At least one, however large."""
    journal.put(register("a", value=b"x" * 10_000), register("b"))

    assert [one.key for one in journal.batch(10, 100)] == [b"a"]
    assert [one.key for one in journal.batch(10, 100)] == [b"b"]


def test_a_batch_takes_tenants_in_turn(journal):
    """A hundred thousand entries of one delay the only one of another by one."""
    for number in range(1_000):
        journal.put(of_tenant("big", f"k{number}"))
    journal.put(of_tenant("small", "s"))

    assert [one.tenant_id for one in journal.batch(2, MANY)] == ["big", "small"]


def test_what_is_given_back_waits_again(journal):
    """Behind the others, so that one that cannot land does not stop them."""
    journal.put(register("a"), register("b"))
    (first,) = journal.batch(1, MANY)
    journal.again(first)

    assert [one.key for one in batch(journal)] == [b"b", b"a"]


def test_what_was_replaced_under_way_is_not_removed(journal):
    """The later write has not been sent."""
    journal.put(register(stamp=1_000))
    (sent,) = batch(journal)
    later = register(stamp=2_000)
    journal.put(later)

    assert not journal.remove(sent)
    assert batch(journal) == [later]
    assert journal.remove(later)
    assert (journal.depth, journal.size) == (0, 0)


def test_what_was_replaced_under_way_is_not_given_back(journal):
    """Its key waits already, once."""
    journal.put(register(stamp=1_000))
    (sent,) = batch(journal)
    later = register(stamp=2_000)
    journal.put(later)
    journal.again(sent)

    assert batch(journal) == [later]
    assert not journal.has_work


def test_postings_of_one_order_are_handed_on_one_by_one(journal):
    """In the order of their acceptance."""
    first, second = posting("m1"), posting("m2")
    journal.post(first)
    journal.post(second)

    assert batch(journal) == [first]
    journal.remove(first)
    assert batch(journal) == [second]


# --- trouble ----------------------------------------------------------------------


def troubled(journal, entry):
    (taken,) = batch(journal)
    assert taken is entry
    journal.trouble(entry, "wrong")


def test_what_is_in_trouble_waits_for_its_owner(journal):
    """It is no work, and still there."""
    one = register()
    journal.put(one)
    troubled(journal, one)

    assert batch(journal) == []
    assert not journal.has_work
    assert (journal.unresolved, journal.depth) == (1, 1)
    assert journal.troubled() == [one]


def test_a_decision_has_it_tried_again(journal):
    """Once."""
    one = register()
    journal.put(one)
    troubled(journal, one)

    assert journal.resume(one)
    assert not journal.resume(one)
    assert journal.unresolved == 0
    assert batch(journal) == [one]


def test_a_later_write_ends_the_trouble_of_its_key(journal):
    """It does not need what stood in the way."""
    one = register(stamp=1_000)
    journal.put(one)
    troubled(journal, one)
    journal.put(register(stamp=2_000))

    assert journal.unresolved == 0
    assert journal.has_work


def test_what_was_replaced_before_its_trouble_was_known_is_forgotten(journal, keeper):
    """Neither counted nor written over the later one in the files."""
    one = register(stamp=1_000)
    journal.put(one)
    batch(journal)
    later = register(stamp=2_000)
    journal.put(later)
    journal.trouble(one, "wrong")
    journal.again(one)

    assert journal.unresolved == 0
    assert journal.troubled() == []
    assert keeper.kept == {(b"a", None): state(later)}


def test_what_was_purged_before_its_trouble_was_known_is_forgotten(journal, keeper):
    """It must not come back, in no file."""
    one = register(stamp=1_000)
    journal.put(one)
    batch(journal)
    journal.forget("acme", 1_000)
    journal.trouble(one, "wrong")
    journal.again(one)

    assert (journal.unresolved, journal.depth) == (0, 0)
    assert keeper.kept == {}


def test_trouble_of_one_delta_does_not_hold_up_the_next(journal):
    """What comes later does not need it: it has a number of its own."""
    first, second = delta(sequence=1), delta(sequence=2)
    journal.add(first)
    journal.freeze(first, 7)
    journal.add(second)
    troubled(journal, first)

    assert batch(journal) == [second]


def test_a_discarded_entry_lets_the_next_of_its_key_go(journal):
    """What waited behind a posting in trouble is work again, and somebody is told."""
    first, second = posting("m1"), posting("m2")
    journal.post(first)
    journal.post(second)
    troubled(journal, first)
    assert batch(journal) == []

    assert journal.remove(first)

    assert journal.unresolved == 0
    assert batch(journal) == [second]


# --- ends -------------------------------------------------------------------------


@pytest.mark.parametrize(("stamp", "depth"), [(999, 1), (1_000, 0), (1_001, 0)])
def test_a_write_that_stands_in_redis_replaces_what_is_older(journal, stamp, depth):
    """And leaves what is newer."""
    journal.put(register(stamp=1_000))
    journal.replaced(b"a", stamp)

    assert journal.depth == depth
    assert journal.has_work is bool(depth)


def test_a_purge_forgets_a_tenant_up_to_its_floor(journal, keeper):
    """Its entries of every kind, nobody else's, and nothing newer."""
    newer, others = register("new", stamp=2_000), of_tenant("globex", "g")
    journal.put(register("old", stamp=1_000), newer, others)
    journal.add(delta())
    journal.post(posting())

    assert journal.forget("acme", 1_999) == 3

    assert list(journal.live()) == [newer, others]
    assert (journal.depth, journal.size) == (2, newer.size + others.size)
    assert len(keeper.kept) == 2


def test_wall_time_is_moved_and_order_kept(journal, keeper):
    """The stamps that nobody has seen follow the server's clock, others do not."""
    first, second = register("a", stamp=5_000_000), register("b", stamp=5_000_001)
    measured, sum_ = register("c", stamp=1_000_000), delta()
    for one in (first, second, sum_):
        one.is_wall_time = True
    journal.put(first, second, measured)
    journal.add(sum_)

    journal.shift(-4_000_000)

    assert [first.stamp, second.stamp] == [1_000_000, 1_000_001]
    assert unseal(first.sealed).stamp == first.stamp
    assert unseal(first.sealed).expires_at_ms == first.expires_at_ms == 5_000
    assert measured.stamp == 1_000_000
    assert sum_.made_us == 5 - 4_000_000
    assert keeper.kept[b"a", None] == state(first)

    journal.shift(-4_000_000)
    assert first.stamp == 1_000_000


def test_the_age_of_the_oldest_is_that_of_its_first_write(journal):
    """Writing a key again does not make it younger."""
    journal.put(register("a", stamp=1_000), register("b", stamp=1_500))
    journal.put(register("a", stamp=9_000))

    assert journal.oldest_us() == 1_000


def test_an_empty_journal_has_no_oldest(journal):
    """Nor is anything used of it."""
    assert journal.oldest_us() is None
    assert journal.share_used == 0.0


def test_the_fuller_limit_counts():
    """Entries or bytes."""
    journal = Journal(max_entries=4, max_bytes=10_000)
    journal.put(register(value=b"x" * 5_000))

    assert 0.5 < journal.share_used < 0.6


# --- adoption ---------------------------------------------------------------------


def test_an_adopted_write_does_not_replace_a_later_one(journal):
    """Taken care of, and not taken."""
    held = register(stamp=2_000)
    journal.put(held)

    assert journal.adopt(register(stamp=1_000))
    assert journal.registers == {b"a": held}


def test_adoption_twice_adds_nothing(journal):
    """Of no kind."""
    for _ in range(2):
        assert journal.adopt(register())
        assert journal.adopt(delta())
        assert journal.adopt(posting())

    assert journal.depth == 3
    assert journal.deltas[b"n"][0].amount == 1


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_adopted_sums_stay_apart_and_in_order(journal, order):
    """A sum that was sent and one that was not, in whatever order a file has them."""
    for sequence in order:
        one = delta(sequence=sequence, amount=10 * sequence)
        one.is_frozen = sequence == 1
        assert journal.adopt(one)

    found = [(one.sequence, one.amount) for one in journal.deltas[b"n"]]
    assert found == [(1, 10), (2, 20)]


def test_what_does_not_fit_is_not_adopted():
    """It stays where it was."""
    journal = Journal(max_entries=0)

    assert not journal.adopt(register())
    assert not journal.adopt(delta())
    assert not journal.adopt(posting())
    assert journal.depth == 0


def test_adopted_trouble_is_no_work(journal):
    """It still waits for a decision, of another owner."""
    one = register()
    one.trouble = "wrong"

    assert journal.adopt(one)
    assert journal.unresolved == 1
    assert not journal.has_work


# --- listeners --------------------------------------------------------------------


def test_every_acceptance_is_told(journal):
    """Once for a call, after the tables have it."""
    told = []
    journal.on_entry = lambda: told.append(journal.depth)

    journal.put(register("a"), register("b"))
    journal.add(delta())
    journal.post(posting())

    assert told == [2, 3, 4]
