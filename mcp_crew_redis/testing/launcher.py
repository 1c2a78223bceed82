"""Becomes a server that dies with its starter; run by path, stdlib only.

    python -I -S launcher.py STARTER_PID SERVER [ARGUMENT ...]

The process id stays, so whoever started this owns the server itself: its signals, its
exit. posix_spawn alone can not ask the kernel for a signal at the starter's death.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by the server, unless the starter has died already."""
    starter, *command = arguments
    with contextlib.suppress(OSError):
        os.setsid()  # a Ctrl-C at the terminal is for the tests
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(starter):
        os.execv(command[0], command)  # noqa: S606 - a list, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
