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

    def pin(self, args: Sequence[object]) -> tuple[bytes, ...]:
        """Keep the keys of `args` on the bulk lane; undone by `unpin` or `landed`."""
        keys = tuple(_keys(args))
        for key in keys:
            self._pinned[key] = self._pinned.get(key, 0) + 1
        self.is_active = True
        return keys

    def unpin(self, keys: Sequence[bytes]) -> None:
        """Release keys whose command was not sent, or is answered."""
        for key in keys:
            left = self._pinned.get(key, 1) - 1
            if left:
                self._pinned[key] = left
            else:
                self._pinned.pop(key, None)
        self._refresh()

    def flies(self, keys: tuple[bytes, ...], number: int) -> None:
        """Note that the command with these pinned keys is the lane's `number`th."""
        self._flights.append((number, keys))

    def landed(self, answered: int) -> None:
        """Release the keys of every bulk command up to number `answered`."""
        while self._flights and self._flights[0][0] <= answered:
            self.unpin(self._flights.popleft()[1])

    def reset(self) -> None:
        """Release the keys in flight: the bulk lane has ended, its strays gate both."""
        while self._flights:
            self.unpin(self._flights.popleft()[1])

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
    """The first argument, and every text short enough to be a key.

    Which ones really are keys is the server's knowledge; one too many only takes the
    bulk lane for a moment.
    """
    more = (
        _bytes(argument)
        for argument in args[2:]
        if isinstance(argument, (str, bytes, bytearray, memoryview))
        and len(argument) <= MAX_KEY_BYTES
    )
    return [*map(_bytes, args[1:2]), *more]


def _kind(args: Sequence[object]) -> tuple[object, bytes]:
    """Commands of one kind have replies of one size: all keys of a data type, or a key.

    Our keys carry their data type before the hash tag, `{`.
    """
    key = _bytes(args[1])
    return (args[0], key.partition(b"{")[0] or key)
