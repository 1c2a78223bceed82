"""Who is told of a key: found by its namespace and tenant, never by a scan of tenants.

    mcp-crew:knowledge:          an open prefix: one namespace of every tenant
    mcp-crew:knowledge:{acme}:   a tenant's: told of its own keys and no other's

The server is asked for namespaces only. It compares every write with every prefix of
every client, so a prefix per tenant would make writes slower with each tenant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mcp_crew_redis._core.bell_listening import Registration
from mcp_crew_redis.errors import ConfigurationError

__all__ = ["BellTable", "head_of", "is_covered"]

MAX_ROUTES = 1024  # heads remembered; there are about as many as namespaces


def head_of(prefix: bytes) -> bytes:
    """Return what the server is asked for: `prefix` up to its tenant.

    Raises:
        ConfigurationError: It would ring for every key, or ends within a tenant's
            name and so would be told of others that begin alike.
    """
    head, brace, rest = prefix.partition(b"{")
    if not head:
        raise ConfigurationError(
            "a bell's prefix begins with a namespace, such as mcp-crew:knowledge:"
        )
    if brace and b"}" not in rest:
        raise ConfigurationError(
            "a bell's prefix holds a whole tenant, such as mcp-crew:knowledge:{acme}:"
        )
    return head


def is_covered(prefix: bytes, tracked: Iterable[bytes]) -> bool:
    """Whether a server that is asked for `tracked` rings for all under `prefix`."""
    return any(prefix.startswith(each) for each in tracked)


class BellTable:
    """The registrations of one bell."""

    def __init__(self) -> None:
        self._all: dict[Registration, bytes] = {}  # each with its head
        self._heads: dict[bytes, int] = {}  # how many registrations have it
        self._open: dict[bytes, list[Registration]] = {}
        self._tenants: dict[bytes, list[Registration]] = {}  # by "namespace:{tenant}"
        self._routes: dict[bytes, tuple[Registration, ...]] = {}
        self._failures = 0  # of registrations that have left

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Registration]:
        return iter(tuple(self._all))

    def add(self, registration: Registration) -> None:
        """Take in a registration; raises as `head_of`."""
        prefix = registration.prefix
        head = head_of(prefix)
        self._all[registration] = head
        self._heads[head] = self._heads.get(head, 0) + 1
        self._shelf(prefix, head).append(registration)
        self._routes.clear()

    def remove(self, registration: Registration) -> None:
        """Forget a registration that is there."""
        head = self._all.pop(registration)
        self._failures += registration.failures
        self._heads[head] -= 1
        if not self._heads[head]:
            del self._heads[head]
        shelf = self._shelf(registration.prefix, head)
        shelf.remove(registration)
        if not shelf:
            shelves, name = self._place(registration.prefix, head)
            del shelves[name]
        self._routes.clear()

    def cover(self) -> frozenset[bytes]:
        """Return the fewest prefixes that ring for everybody; none within another."""
        kept: list[bytes] = []
        for head in sorted(self._heads):  # a prefix sorts before what it begins
            if not kept or not head.startswith(kept[-1]):
                kept.append(head)
        return frozenset(kept)

    @property
    def is_watched_closely(self) -> bool:
        """Whether anybody does."""
        return any(each.is_watched_closely for each in self._all)

    @property
    def failures(self) -> int:
        """Calls of listeners that raised."""
        return self._failures + sum(each.failures for each in self._all)

    # --- telling --------------------------------------------------------------------

    def tell_keys(self, keys: Sequence[bytes]) -> None:
        """Tell each registration its own of these keys."""
        for registration, own in self.sort(keys).items():
            registration.tell_keys(own)

    def tell_flushed(self) -> None:
        """Tell everybody."""
        for registration in self:
            registration.tell_flushed()

    def tell_lost(self) -> None:
        """Tell everybody who was told of health."""
        for registration in self:
            registration.tell_lost()

    def tell_tracked(self, tracked: frozenset[bytes]) -> None:
        """Tell each registration whether it is under a prefix in force now."""
        for registration in self:
            if is_covered(registration.prefix, tracked):
                registration.tell_healthy()
            else:
                registration.tell_lost()

    def sort(self, keys: Sequence[bytes]) -> dict[Registration, list[bytes]]:
        """Return each concerned registration with its own of these keys."""
        sorted_keys: dict[Registration, list[bytes]] = {}
        tenants, routes = self._tenants, self._routes
        for key in keys:
            brace = key.find(b"{")
            if brace < 0:
                concerned = self._route(key)
            else:
                head = key[:brace]
                known = routes.get(head)
                concerned = self._remembered(head) if known is None else known
            for registration in concerned:
                sorted_keys.setdefault(registration, []).append(key)
            if brace < 0 or not tenants:
                continue
            for registration in tenants.get(key[: key.find(b"}", brace) + 1], ()):
                if key.startswith(registration.prefix):
                    sorted_keys.setdefault(registration, []).append(key)
        return sorted_keys

    def _remembered(self, head: bytes) -> tuple[Registration, ...]:
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        self._routes[head] = route = self._route(head)
        return route

    def _route(self, head: bytes) -> tuple[Registration, ...]:
        # An open prefix has no brace: it begins a key if it begins the key's head.
        return tuple(
            registration
            for prefix, registrations in self._open.items()
            if head.startswith(prefix)
            for registration in registrations
        )

    def _shelf(self, prefix: bytes, head: bytes) -> list[Registration]:
        shelves, name = self._place(prefix, head)
        return shelves.setdefault(name, [])

    def _place(
        self, prefix: bytes, head: bytes
    ) -> tuple[dict[bytes, list[Registration]], bytes]:
        if prefix == head:
            return self._open, prefix
        return self._tenants, prefix[: prefix.index(b"}", len(head)) + 1]
