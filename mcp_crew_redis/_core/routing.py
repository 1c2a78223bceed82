"""Which of the two lanes a command takes.

Small commands share the interactive lane. What is large goes over the bulk lane, so
that a small reply never waits behind a large one: commands whose bytes or key count
are large, and commands of a kind whose replies were large lately.

Two lanes have no order between them, so the routing keeps the order per key: a large
command leaves when everything already sent is answered, and while it is unanswered,
commands with one of its keys follow it onto the bulk lane. Otherwise a large write
whose caller has given up could land over a newer small one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

__all__ = ["Routing"]

MAX_KEYS = 512  # more arguments than this make a command large
MAX_LEARNED = 1024  # kinds of large replies remembered
MAX_KEY_BYTES = 1024  # a longer argument is a value, not a key


class Routing:
    """The memory behind the choice. Synchronous; O(1) per command while inactive.

    Attributes:
        is_active: False means that every small command may take the interactive lane
            without a look.
    """

    def __init__(self, *, large_for: float, monotonic: Callable[[], float]) -> None:
        self.is_active = False
        self._large_for = large_for
        self._monotonic = monotonic
        self._large: dict[tuple[object, bytes], float] = {}
        self._pinned: dict[bytes, int] = {}
        self._flights: deque[tuple[int, tuple[bytes, ...]]] = deque()

    def takes_bulk(self, args: Sequence[object]) -> bool:
        """Whether this command must take the bulk lane, whatever its own size is."""
        if len(args) > MAX_KEYS:
            return True
        if len(args) < 2:  # noqa: PLR2004 - a name and a key
            return False
        if self._pinned and any(key in self._pinned for key in _keys(args)):
            return True
        return bool(self._large) and self._is_large(args)

    def learn(self, args: Sequence[object]) -> None:
        """Remember that the reply to a command like `args` was large."""
        if len(args) < 2:  # noqa: PLR2004 - a name and a key
            return
        if len(self._large) >= MAX_LEARNED:
            self._large.pop(next(iter(self._large)))
        kind = _kind(args)
        self._large.pop(kind, None)
        self._large[kind] = self._monotonic() + self._large_for
        self.is_active = True

    def _is_large(self, args: Sequence[object]) -> bool:
        kind = _kind(args)
        until = self._large.get(kind)
        if until is None:
            return False
        if until > self._monotonic():
            return True
        del self._large[kind]
        self._refresh()
        return False

    def pin(self, number: int, args: Sequence[object]) -> None:
        """Keep the keys of bulk command `number` on the bulk lane until its reply."""
        keys = tuple(_keys(args))
        for key in keys:
            self._pinned[key] = self._pinned.get(key, 0) + 1
        self._flights.append((number, keys))
        self.is_active = True

    def landed(self, answered: int) -> None:
        """Release the keys of every bulk command up to number `answered`."""
        while self._flights and self._flights[0][0] <= answered:
            for key in self._flights.popleft()[1]:
                left = self._pinned[key] - 1
                if left:
                    self._pinned[key] = left
                else:
                    del self._pinned[key]
        self._refresh()

    def reset(self) -> None:
        """Release every key: the bulk lane has ended and its strays gate both lanes."""
        self._pinned.clear()
        self._flights.clear()
        self._refresh()

    def _refresh(self) -> None:
        self.is_active = bool(self._pinned or self._large)


def _bytes(argument: object) -> bytes:
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, str):
        return argument.encode("utf-8", "surrogatepass")
    if isinstance(argument, (bytearray, memoryview)):
        return bytes(argument)
    return str(argument).encode()


def _keys(args: Sequence[object]) -> list[bytes]:
    """Every argument short enough to be a key: which ones are, the server knows."""
    return [
        _bytes(argument)
        for argument in args[1:]
        if not isinstance(argument, (int, float))
        and (
            not isinstance(argument, (str, bytes, bytearray, memoryview))
            or len(argument) <= MAX_KEY_BYTES
        )
    ]


def _kind(args: Sequence[object]) -> tuple[object, bytes]:
    """Commands of one kind have replies of one size: all keys of a data type, or a key.

    Our keys carry their data type before the hash tag, `{`.
    """
    key = _bytes(args[1])
    return (args[0], key.partition(b"{")[0] or key)
