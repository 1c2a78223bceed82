"""What a forked child does with the connections it was born with: nothing."""

from __future__ import annotations

import os

__all__ = ["let_go"]


def let_go(descriptor: int) -> None:
    """Close this process's copy of a socket without a word on it.

    Not `close()`: the socket object still believes in its number. And not the
    transport's own close first: the child shares the poller of its parent's loop, and
    would take the parent's socket out of it. Afterwards both are harmless.
    """
    null = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null, descriptor)
    finally:
        os.close(null)
