"""What a tenant takes up in Redis: frozen figures, and the sum that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["TenantUsage", "TypeUsage", "UsageTally"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeUsage:
    """The keys of one data type.

    Attributes:
        keys: How many there are, without tombstones.
        bytes: What they take.
        tombstones: Keys that only remember a delete.
        tombstone_bytes: What those take.
    """

    keys: int = 0
    bytes: int = 0
    tombstones: int = 0
    tombstone_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUsage:
    """What one tenant takes up.

    Attributes:
        tenant_id: Whose it is.
        types: By namespace, which for values is the data type; `meta` is what the
            layer itself remembers of the tenant.
        is_estimate: False: bytes are those of `MEMORY USAGE`, keys and overhead
            included, collections by a sample of five. True: the server refuses that
            command, and bytes are the lengths of keys and strings; of collections only
            the keys count.
        is_complete: False when the time was up before all of it was seen.
    """

    tenant_id: str
    types: Mapping[str, TypeUsage]
    is_estimate: bool
    is_complete: bool

    @property
    def keys(self) -> int:
        """All keys, without tombstones."""
        return sum(one.keys for one in self.types.values())

    @property
    def bytes(self) -> int:
        """All bytes, tombstones included."""
        return sum(one.bytes + one.tombstone_bytes for one in self.types.values())

    @property
    def tombstones(self) -> int:
        """All keys that only remember a delete."""
        return sum(one.tombstones for one in self.types.values())


@dataclass(slots=True)
class UsageTally:
    """Adds up keys as they are found.

    Attributes:
        key_count: Keys added so far, tombstones included.
        is_estimate: Whether a size was no answer of `MEMORY USAGE`.
    """

    key_count: int = 0
    is_estimate: bool = False
    _sums: dict[str, list[int]] = field(default_factory=dict)

    def add(self, namespace: str, size: int, *, is_tombstone: bool) -> None:
        """Count one key of `size` bytes."""
        self.key_count += 1
        sums = self._sums.setdefault(namespace, [0, 0, 0, 0])
        at = 2 if is_tombstone else 0
        sums[at] += 1
        sums[at + 1] += size

    def total(self, tenant_id: str, *, is_complete: bool) -> TenantUsage:
        """Freeze the figures."""
        types = {
            name: TypeUsage(
                keys=sums[0],
                bytes=sums[1],
                tombstones=sums[2],
                tombstone_bytes=sums[3],
            )
            for name, sums in sorted(self._sums.items())
        }
        return TenantUsage(
            tenant_id=tenant_id,
            types=MappingProxyType(types),
            is_estimate=self.is_estimate,
            is_complete=is_complete,
        )
