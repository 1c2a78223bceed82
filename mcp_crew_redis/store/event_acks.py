"""Events that Redis has acknowledged and may still lose: part of the replay window.

Only those that were published under a mark: of others a repetition would stand twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from mcp_crew_redis._core.script_batches import Call
from mcp_crew_redis.store.journal.calls import MARK_AT
from mcp_crew_redis.store.journal.entries import OVERHEAD

__all__ = ["MAX_EVENT_BYTES", "EventAcks"]

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""Beside the values, so that neither drives out the other."""
STRIDE: Final = 256

Ack = tuple[int, bytes, Call]
"""When, in microseconds by the server's clock; the stream; the script."""


class EventAcks:
    """The last acknowledged events, by mark, in the order of their acknowledgement.

    Args:
        max_bytes: Limit of all together.

    Attributes:
        size: Bytes of all together.
    """

    __slots__ = ("_acks", "_max_bytes", "size")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._acks: OrderedDict[bytes, Ack] = OrderedDict()
        self._max_bytes = max_bytes
        self.size = 0

    def __len__(self) -> int:
        return len(self._acks)

    @property
    def last_us(self) -> int:
        """When the last one was acknowledged; 0 for none."""
        return self._acks[next(reversed(self._acks))][0] if self._acks else 0

    def note(self, at: int, key: bytes, call: Call) -> bool:
        """Remember one; one that is known already keeps its place and what it said.

        Returns:
            Whether to look now if others are too old.
        """
        mark = call[1][MARK_AT[call[0]]]
        if mark in self._acks:
            return False
        self.size += _size(call)
        self._acks[mark] = at, key, call
        return self.size > self._max_bytes or len(self._acks) % STRIDE == 0

    def renew(self, at: int, key: bytes, call: Call) -> None:
        """Remember one behind all others: a new server has it only now."""
        held = self._acks.pop(call[1][MARK_AT[call[0]]], None)
        if held is not None:
            self.size -= _size(held[2])
        self.note(at, key, call)

    def prune(self, since_us: int) -> int:
        """Let go what is older, or too much; return how many were too much."""
        overflowed, acks = 0, self._acks
        while acks:
            mark = next(iter(acks))
            at, _, call = acks[mark]
            if at >= since_us and self.size <= self._max_bytes:
                break
            del acks[mark]
            self.size -= _size(call)
            overflowed += at >= since_us
        return overflowed

    def calls(self, void_until: Callable[[bytes], int]) -> Iterator[Call]:
        """Give the scripts of those that no purge has voided.

        Args:
            void_until: Until when what was acknowledged for a key is void.
        """
        for at, key, call in self._acks.values():
            if at > void_until(key):
                yield call


def _size(call: Call) -> int:
    return 2 * OVERHEAD + sum(len(one) for one in call[2] if isinstance(one, bytes))
