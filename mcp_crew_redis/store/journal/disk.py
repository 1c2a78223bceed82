"""What a disk's refusal means to whoever runs the process."""

from __future__ import annotations

import errno
from typing import Final

__all__ = ["VARIABLE", "error_name", "explain", "is_full"]

VARIABLE: Final = "REDIS_CREW_JOURNAL_DIR"

_REMEDIES: Final = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there or raise the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "mount it for writing",
    errno.EIO: "look at the kernel's log: the disk is failing",
    errno.ENOENT: "somebody has removed the files; leave the folder to this program",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Whether it may pass: there is no room now."""
    return error.errno in _FULL


def error_name(error: OSError) -> str:
    """Return the error's short name, such as ENOSPC."""
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def explain(error: OSError) -> str:
    """Return what health says: the setting, the error, its remedy."""
    remedy = _REMEDIES.get(error.errno or 0, "look at the system's log")
    return (
        f"{VARIABLE}: {error.strerror or type(error).__name__} ({error_name(error)}): "
        f"entries are in memory only; {remedy}"
    )
