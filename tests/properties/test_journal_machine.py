"""The journal under every order of events, against a model that keeps plain lists.

Live writes, batches under way, troubles, decisions, purges and later writes come in any
order; after each step the sums are counted anew from what is held, and nothing that was
accepted may be gone without one of the reasons for which an entry ends.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcp_crew_redis._wire.header import seal
from mcp_crew_redis.errors import FallbackFullError
from mcp_crew_redis.store.journal.entries import Delta, Entry, Posting, Register
from mcp_crew_redis.store.journal.journal import Journal

MAX_ENTRIES, MAX_BYTES = 12, 6_000
TENANTS = st.sampled_from(["acme", "globex"])
NAMES = st.sampled_from(["a", "b", "c"])
LATE = st.sampled_from([0, 7])
WRITERS = st.sampled_from(["w1", "w2"])


class Kept:
    """What a process after this one would find in the files."""

    is_durable = True
    reason = None

    def __init__(self) -> None:
        self.entries: dict[object, Entry] = {}

    @staticmethod
    def identity(entry: Entry) -> object:
        if isinstance(entry, Register):
            return entry.key
        if isinstance(entry, Delta):
            return entry.key, entry.writer, entry.sequence
        return entry.order_key, entry.id

    def put(self, entry: Entry) -> None:
        self.entries[self.identity(entry)] = entry

    def drop(self, entry: Entry) -> None:
        del self.entries[self.identity(entry)]

    async def committed(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to close."""


class JournalMachine(RuleBasedStateMachine):
    """Drives a journal as the store and the synchroniser do."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()
        self.journal = Journal(
            max_bytes=MAX_BYTES, max_entries=MAX_ENTRIES, keeper=self.kept
        )
        self.now = 1_000
        self.flying: list[Entry] = []
        self.newest: dict[bytes, int] = {}  # the stamp that must wait under each key
        self.owed: dict[bytes, int] = {}  # what waits for each counter, summed
        self.sent: list[Delta] = []  # sums that may have been added: never changed

    def tick(self) -> int:
        self.now += 1
        return self.now

    # --- acceptance -------------------------------------------------------------------

    @rule(tenant=TENANTS, name=NAMES, size=st.integers(0, 900), late=LATE)
    def put(self, tenant: str, name: str, size: int, late: int) -> None:
        key = f"{tenant}:{name}".encode()
        stamp = self.tick() - late  # a stamp taken earlier, that comes late
        one = Register.of(key, tenant, seal(stamp, b"x" * size, 9_000))
        try:
            self.journal.put(one)
        except FallbackFullError:
            return
        self.newest[key] = max(stamp, self.newest.get(key, 0))

    @rule(tenant=TENANTS, writer=WRITERS, amount=st.integers(-5, 5), late=LATE)
    def add(self, tenant: str, writer: str, amount: int, late: int) -> None:
        key = f"{tenant}:n".encode()
        one = Delta(
            key=key,
            tenant_id=tenant,
            writer=writer,
            sequence=self.tick() - late,
            amount=amount,
            ttl_ms=1,
            made_us=self.now,
            is_frozen=late > 0,  # it was under way when later ones were accepted
            frozen_us=self.now if late else 0,
        )
        if self.journal.knows(one):
            return
        try:
            self.journal.add(one)
        except FallbackFullError:
            return
        self.owed[key] = self.owed.get(key, 0) + amount
        if one.is_frozen:
            self.sent.append(one)

    @rule(tenant=TENANTS)
    def post(self, tenant: str) -> None:
        one = Posting(
            id=str(self.tick()),
            tenant_id=tenant,
            kind="event",
            order_key=f"{tenant}:m".encode(),
            body=b"",
            made_us=self.now,
        )
        try:
            self.journal.post(one)
        except FallbackFullError:
            return

    # --- a batch ----------------------------------------------------------------------

    @precondition(lambda self: not self.flying)
    @rule(count=st.integers(1, 6))
    def take(self, count: int) -> None:
        self.flying = self.journal.batch(count, 10**9)
        for one in self.flying:
            assert not one.trouble
            if isinstance(one, Delta):
                self.journal.freeze(one, self.now)
        names = [one.name for one in self.flying]
        assert len(set(names)) == len(names)

    @precondition(lambda self: self.flying)
    @rule()
    def lands(self) -> None:
        one = self.flying.pop(0)
        was_held = self.journal.holds(one)
        assert self.journal.remove(one) is was_held
        if was_held:
            self.ended(one)

    @precondition(lambda self: self.flying)
    @rule()
    def gets_into_trouble(self) -> None:
        one = self.flying.pop(0)
        self.journal.trouble(one, "wrong")

    @precondition(lambda self: self.flying)
    @rule()
    def fails(self) -> None:
        for one in self.flying:
            if isinstance(one, Register):
                self.journal.doubt(one)
            self.journal.again(one)
        self.flying = []

    # --- what happens meanwhile -------------------------------------------------------

    @rule(tenant=TENANTS, name=NAMES, behind=st.integers(0, 9))
    def a_live_write_lands(self, tenant: str, name: str, behind: int) -> None:
        key = f"{tenant}:{name}".encode()
        stamp = self.tick() - behind
        self.journal.replaced(key, stamp)
        if self.newest.get(key, self.now + 1) <= stamp:
            del self.newest[key]

    @rule(tenant=TENANTS, behind=st.integers(0, 9))
    def purge(self, tenant: str, behind: int) -> None:
        floor = self.tick() - behind
        doomed = [
            one
            for one in self.journal.live()
            if one.tenant_id == tenant and one.made_us <= floor
        ]
        assert self.journal.forget(tenant, floor) == len(doomed)
        for one in doomed:
            self.ended(one)

    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        waiting = self.journal.troubled()
        if not waiting:
            return
        one = data.draw(st.sampled_from(waiting))
        if data.draw(st.booleans()):
            assert self.journal.resume(one)
        else:
            assert self.journal.remove(one)
            self.ended(one)

    def ended(self, one: Entry) -> None:
        if isinstance(one, Register):
            del self.newest[one.key]
        elif isinstance(one, Delta):
            self.owed[one.key] -= one.amount
            self.sent = [other for other in self.sent if other is not one]

    # --- what always holds ------------------------------------------------------------

    @invariant()
    def its_figures_are_those_of_what_it_holds(self) -> None:
        held = list(self.journal.live())
        assert self.journal.depth == len(self.journal) == len(held) <= MAX_ENTRIES
        assert self.journal.size == sum(one.size for one in held) <= MAX_BYTES
        assert self.journal.unresolved == sum(bool(one.trouble) for one in held)
        assert self.journal.unresolved == len(self.journal.troubled())

    @invariant()
    def nothing_accepted_is_lost(self) -> None:
        found = {key: one.stamp for key, one in self.journal.registers.items()}
        assert found == self.newest
        sums = {
            key: sum(one.amount for one in queue)
            for key, queue in self.journal.deltas.items()
        }
        assert all(sums.get(key, 0) == sum_ for key, sum_ in self.owed.items())

    @invariant()
    def the_files_hold_the_same(self) -> None:
        held = {Kept.identity(one): one for one in self.journal.live()}
        assert self.kept.entries == held

    @invariant()
    def what_was_sent_stays_as_it_was(self) -> None:
        assert all(self.journal.holds(one) for one in self.sent)

    @invariant()
    def a_writers_numbers_are_in_order(self) -> None:
        for queue in self.journal.deltas.values():
            for writer in ("w1", "w2"):
                numbers = [one.sequence for one in queue if one.writer == writer]
                assert numbers == sorted(set(numbers))

    @invariant()
    def whatever_can_be_sent_waits_or_is_under_way(self) -> None:
        flying = {one.name for one in self.flying}
        scheduled = {
            key for keys in self.journal._waiting._tenants.values() for key in keys
        }
        for one in self.journal.live():
            first = self.journal.first(one.name)
            assert first is None or one.name in flying | scheduled


JournalMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None
)
TestJournal = JournalMachine.TestCase
