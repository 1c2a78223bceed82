"""The tables of a journal: what waits, by key."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from mcp_crew_redis.store.journal.entries import Delta, Entry, Posting, Register

__all__ = ["Tables"]

_SAMPLE: Final = 1_000  # entries looked at for the age of the oldest


class Tables:
    """Entries by key and, where there may be several, in their order.

    Attributes:
        registers: The newest pending write of each key.
        deltas: What waits for each counter, in the order of its sequences.
        postings: What waits for each order key, in order.
    """

    def __init__(self) -> None:
        self.registers: dict[bytes, Register] = {}
        self.deltas: dict[bytes, deque[Delta]] = {}
        self.postings: dict[bytes, deque[Posting]] = {}

    def knows(self, entry: Entry) -> bool:
        """Whether an entry, or a later one in its place, is held already."""
        if isinstance(entry, Register):
            held = self.registers.get(entry.key)
            if held is not None and held.stamp == entry.stamp:
                held.is_uncertain = held.is_uncertain or entry.is_uncertain
            return held is not None and held.stamp >= entry.stamp
        if isinstance(entry, Delta):
            name = entry.writer, entry.sequence
            queue = self.deltas.get(entry.key, ())
            return any((one.writer, one.sequence) == name for one in queue)
        return any(one.id == entry.id for one in self.postings.get(entry.name, ()))

    def open_delta(self, key: bytes, writer: str) -> Delta | None:
        """Return the delta of a counter that this writer may still add to."""
        queue = self.deltas.get(key)
        if queue:
            last = queue[-1]
            if last.writer == writer and not last.is_frozen:
                return last
        return None

    def first(self, key: bytes) -> Entry | None:
        """Return the entry of a key or order key that is to be sent first.

        None while there is none, or it waits for a decision. Deltas need not wait for
        each other: those in trouble were not added.
        """
        entry: Entry | None = self.registers.get(key)
        if entry is None and key in self.deltas:
            entry = next((one for one in self.deltas[key] if not one.trouble), None)
        elif entry is None and key in self.postings:
            entry = self.postings[key][0]
        return None if entry is None or entry.trouble else entry

    def enqueue(self, delta: Delta) -> None:
        """Put a delta in its place: behind all of its writer's lower numbers."""
        queue = self.deltas.setdefault(delta.key, deque())
        for at, other in enumerate(queue):
            if other.writer == delta.writer and other.sequence > delta.sequence:
                queue.insert(at, delta)
                return
        queue.append(delta)

    def holds(self, entry: Entry) -> bool:
        """Whether this very entry is still held: no later one has replaced it."""
        if isinstance(entry, Register):
            return self.registers.get(entry.key) is entry
        queue: deque[Delta] | deque[Posting]
        if isinstance(entry, Delta):
            queue = self.deltas.get(entry.key, deque())
        else:
            queue = self.postings.get(entry.order_key, deque())
        return any(one is entry for one in queue)

    def take_out(self, entry: Entry) -> None:
        """Remove an entry that is held."""
        if isinstance(entry, Register):
            del self.registers[entry.key]
        elif isinstance(entry, Delta):
            _take_out(self.deltas, entry.key, entry)
        else:
            _take_out(self.postings, entry.order_key, entry)

    def live(self) -> Iterator[Entry]:
        """Give every entry."""
        yield from self.registers.values()
        yield from chain.from_iterable(self.deltas.values())
        yield from chain.from_iterable(self.postings.values())

    def troubled(self) -> list[Entry]:
        """Return the entries that wait for a decision of their owner."""
        return [entry for entry in self.live() if entry.trouble]

    def oldest_us(self) -> int | None:
        """Return when the oldest entry was accepted, None if there is none."""
        heads = chain(
            (one.since_us for one in islice(self.registers.values(), _SAMPLE)),
            (q[0].made_us for q in islice(self.deltas.values(), _SAMPLE)),
            (q[0].made_us for q in islice(self.postings.values(), _SAMPLE)),
        )
        return min(heads, default=None)


def _take_out(
    queues: dict[bytes, deque[Delta]] | dict[bytes, deque[Posting]],
    name: bytes,
    entry: Delta | Posting,
) -> None:
    queue = queues[name]
    queue.remove(entry)  # type: ignore[arg-type] # each table holds one kind
    if not queue:
        del queues[name]
