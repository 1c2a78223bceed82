"""Whose turn it is: pending keys, one of each tenant after the other."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Schedule"]


class Schedule:
    """Keys that wait, handed out fairly over tenants and oldest first within one.

    A tenant with a hundred thousand keys delays another's one by one key.
    """

    __slots__ = ("_tenants",)

    def __init__(self) -> None:
        # Tenants in the order of their turns, each with its keys in order of arrival.
        self._tenants: dict[str, dict[bytes, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._tenants.values())

    def add(self, tenant_id: str, key: bytes) -> None:
        """Have a key wait; one that waits already keeps its place."""
        self._tenants.setdefault(tenant_id, {})[key] = None

    def discard(self, tenant_id: str, key: bytes) -> None:
        """Take a key out, if it waits."""
        keys = self._tenants.get(tenant_id)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del self._tenants[tenant_id]

    def take(self) -> Iterator[tuple[str, bytes]]:
        """Hand out keys, each once, until none waits or nobody asks any more."""
        while self._tenants:
            tenant_id, keys = next(iter(self._tenants.items()))
            key = next(iter(keys))
            del keys[key], self._tenants[tenant_id]
            if keys:
                self._tenants[tenant_id] = keys  # behind the others
            yield tenant_id, key
