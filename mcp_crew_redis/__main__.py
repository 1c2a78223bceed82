"""`python -m mcp_crew_redis`, and the console script of the same name."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from signal import SIGINT

__all__ = ["main"]

_NEEDED = ("typer", "rich")


def main() -> int:
    """Run the command line on `sys.argv`; return the exit code.

    0: done. 1: what was asked did not succeed. 2: wrong use, or an extra is missing.
    128 and more: ended by the signal of that number.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        # Said here and not in cli/, which cannot be imported without them.
        sys.stderr.write(
            f"mcp-crew-redis: {' and '.join(missing)} not installed; "
            "pip install 'mcp-crew-redis[cli,mcp,embedded]'\n"
        )
        return 2
    try:
        from mcp_crew_redis.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # before a command listens to signals itself
        return 128 + SIGINT


if __name__ == "__main__":
    sys.exit(main())
