"""What the agents wrote down of their own calls, and what must stand in the end.

It knows nothing of how the crew works: of two writes of one key the newer one is that
which began after the other had returned. Two that overlap may end in either order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mcp_crew_redis.types import DataType

__all__ = ["Name", "Verdict", "Write", "judge"]

Name: TypeAlias = tuple[str, str, str]
"""Tenant, data type and identifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write of one agent.

    Attributes:
        name: What it was about.
        value: What it writes, of a counter what it adds; None deletes.
        began: When it began, in seconds of the clock that all processes share.
        ended: When it returned or failed.
        outcome: stored, deferred, counted or failed; failed may have happened.
    """

    name: Name
    value: str | int | None
    began: float
    ended: float
    outcome: str

    @property
    def is_accepted(self) -> bool:
        """Whether its caller was told that it is done."""
        return self.outcome != "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How what stands compares with what was written.

    Attributes:
        keys: Keys looked at, counters included.
        lost: Keys under which neither the newest accepted write stands nor any other
            that anybody knows, and increments that are missing.
        clobbered: Keys under which an older write stands over a newer accepted one.
        repeated: Increments that were counted more than once.
    """

    keys: int
    lost: int
    clobbered: int
    repeated: int

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.clobbered or self.repeated)


def judge(writes: Iterable[Write], stands: Mapping[Name, object]) -> Verdict:
    """Compare all that was written with what stands; None or no entry: nothing."""
    by_name: dict[Name, list[Write]] = defaultdict(list)
    for write in writes:
        by_name[write.name].append(write)
    lost = clobbered = repeated = 0
    for name, some in by_name.items():
        if name[1] == DataType.COUNTER:
            missing = _missing(some, stands.get(name))
            lost += max(0, missing)
            repeated += max(0, -missing)
        elif not _is_newest(some, stands.get(name)):
            is_known = any(write.value == stands.get(name) for write in some)
            clobbered += is_known
            lost += not is_known
    return Verdict(keys=len(by_name), lost=lost, clobbered=clobbered, repeated=repeated)


def _is_newest(writes: Sequence[Write], value: object) -> bool:
    """Whether no accepted write began after the one that stands had returned."""
    accepted = [write for write in writes if write.is_accepted]
    if value is None and not accepted:
        return True
    latest = max((write.began for write in accepted), default=0.0)
    return any(write.ended >= latest for write in writes if write.value == value)


def _missing(writes: Sequence[Write], total: object) -> int:
    """Return the increments that were not counted; below 0: counted too often."""
    stands = total if isinstance(total, int) else 0
    returned = sum(int(write.value or 0) for write in writes if write.is_accepted)
    doubtful = sum(int(write.value or 0) for write in writes if not write.is_accepted)
    if stands < returned:
        return returned - stands
    return min(0, returned + doubtful - stands)
