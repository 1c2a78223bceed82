"""Every key this layer ever writes is built here, and nowhere else.

    {prefix}{namespace}:{{tenant}}:{identifier}
    mcp-crew:knowledge:{account123}:topic:id123         one slot per tenant
    mcp-crew:embedding:{account123/7}:0f3c...           bulk: one of 16 slots
    mcp-crew:meta:{account123}:floor                    what we know of a tenant
    mcp-crew:events:{account123}:tool.discovered:high   a stream of events
    mcp-crew:tenants                                    of no tenant: who there is
    mcp-crew:shares:indexer                             of no tenant: who does what

The tenant is the Cluster hash tag, so one script may touch several of its keys. The
namespace comes first, so a listener can watch one namespace of every tenant.
"""

from __future__ import annotations

import re
import zlib
from binascii import crc_hqx
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from mcp_crew_redis._wire.identifiers import (
    PLAIN,
    TENANT_GRAMMAR,
    decode_identifier,
    encode_glob,
    encode_identifier,
    validate_tenant,
)
from mcp_crew_redis.errors import (
    ConfigurationError,
    DataError,
    InvalidIdentifierError,
)
from mcp_crew_redis.types import DataType

__all__ = [
    "DEFAULT_PREFIX",
    "META_NAMESPACE",
    "QUEUE_NAMESPACE",
    "SLOT_COUNT",
    "SPREAD_COUNT",
    "SPREAD_NAMESPACES",
    "STREAM_NAMESPACE",
    "KeySpace",
    "MetaKey",
    "ParsedKey",
    "TenantKeys",
    "cluster_slot",
    "hash_tag",
]

DEFAULT_PREFIX: Final = "mcp-crew:"
META_NAMESPACE: Final = "meta"
QUEUE_NAMESPACE: Final = "tasks"  # its hash tag is a queue's shard, never a tenant
STREAM_NAMESPACE: Final = "events"  # streams and due times alone: it rings the bell
SLOT_COUNT: Final = 16_384
SPREAD_COUNT: Final = 16
SPREAD_NAMESPACES: Final = frozenset({DataType.EMBEDDING.value})

_NAMESPACE_GRAMMAR: Final = r"[a-z][a-z0-9_]{0,31}"
_NAMESPACE = re.compile(_NAMESPACE_GRAMMAR)
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,62}:")
_KEY = re.compile(
    rf"({_NAMESPACE_GRAMMAR}):\{{({TENANT_GRAMMAR})(?:/(0|[1-9][0-9]?))?\}}:(.+)"
)
_MAX_TENANTS_KEPT: Final = 4_096
_MAX_HEADS_KEPT: Final = 64

# Bound once: an attribute look-up on the pattern costs a tenth of building a key.
_is_plain = PLAIN.fullmatch


class MetaKey(StrEnum):
    """What is known of one tenant, besides its data; kept for ever."""

    FLOOR = "floor"  # stamp of the last purge: nothing older is ever replayed
    TYPES = "types"  # the event types this tenant has published


class ParsedKey(NamedTuple):
    """What a key says. `shard` is None unless the namespace is spread."""

    namespace: str
    tenant: str
    shard: int | None
    identifier: str


def hash_tag(key: bytes) -> bytes:
    """Return what Redis Cluster hashes of `key`: its tag, else all of it.

    The rule (Redis Cluster specification, "Hash tags"): what is between the first
    `{` and the first `}` after it, unless that is empty.
    """
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    return key[start + 1 : end] if start >= 0 and end > start + 1 else key


def cluster_slot(key: bytes) -> int:
    """Return the Cluster slot of `key`, 0 to 16383.

    CRC-16/XMODEM (polynomial 0x1021, initial 0) modulo 16384, as the appendix of the
    Redis Cluster specification has it; `binascii.crc_hqx` is that CRC in C.
    """
    return crc_hqx(hash_tag(key), 0) % SLOT_COUNT


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The keys of one tenant; made by `KeySpace.tenant`, cheap and without I/O."""

    prefix: str
    tenant_id: str
    # Key up to the identifier, per namespace; the hot path adds only the identifier.
    _heads: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        validate_tenant(self.tenant_id)

    def key(self, namespace: str, identifier: str) -> bytes:
        """Return the key of `identifier`. A `DataType` is a namespace.

        Namespaces in `SPREAD_NAMESPACES` get one of 16 shards by their identifier.

        Raises:
            InvalidIdentifierError: See `encode_identifier`.
            DataError: The namespace does not match `[a-z][a-z0-9_]{0,31}`.
        """
        head = self._heads.get(namespace)
        if head is None:
            return self._first_key(namespace, identifier)
        try:
            if _is_plain(identifier):
                return head + identifier.encode()
        except TypeError:
            pass  # not a string: encode_identifier says so
        return head + encode_identifier(identifier)

    def meta(self, name: MetaKey) -> bytes:
        """Return the permanent key that holds `name` of this tenant."""
        return self.key(META_NAMESPACE, name)

    def pattern(self, namespace: str, match: str = "*") -> bytes:
        r"""Return the glob for SCAN over one namespace of this tenant.

        In `match`, `*`, `?`, `[...]` and `\` mean what they mean in Redis; every other
        character stands for itself and is encoded as in a key. `?` and `[...]` see
        encoded characters: one outside the plain set is several to them. Whatever
        `match` holds, the pattern stays within the tenant.

        Raises:
            InvalidIdentifierError: `match` is empty, too long or not valid Unicode.
            DataError: The namespace is not one.
        """
        shard = "/*" if namespace in SPREAD_NAMESPACES else ""
        return self._head(namespace, shard) + encode_glob(match)

    def _first_key(self, namespace: str, identifier: str) -> bytes:
        if namespace in SPREAD_NAMESPACES:
            encoded = encode_identifier(identifier)
            return self._head(namespace, f"/{_shard_of(encoded)}") + encoded
        head = self._head(namespace, "")
        if len(self._heads) < _MAX_HEADS_KEPT:
            self._heads[namespace] = head
        return head + encode_identifier(identifier)

    def _head(self, namespace: str, shard: str) -> bytes:
        _validate_namespace(namespace)
        return f"{self.prefix}{namespace}:{{{self.tenant_id}{shard}}}:".encode("ascii")


def _validate_namespace(namespace: str) -> None:
    if _NAMESPACE.fullmatch(namespace) is None or namespace == QUEUE_NAMESPACE:
        raise DataError(
            "a tenant's namespace has 1 to 32 of a-z 0-9 _, starts with a letter "
            f"and is not {QUEUE_NAMESPACE!r}"
        )


def _shard_of(encoded: bytes) -> int:
    # Only the spread matters here, not strength; CRC-32 costs 50 ns.
    return zlib.crc32(encoded) % SPREAD_COUNT


@dataclass(frozen=True, slots=True)
class KeySpace:
    """All keys under one prefix.

    Raises:
        ConfigurationError: The prefix is not 2 to 64 of `A-Z a-z 0-9 . _ / : -`
            starting with a letter or digit and ending with a colon. Without the colon
            two prefixes could build the same key; a brace would move the hash tag.
    """

    prefix: str = DEFAULT_PREFIX
    _tenants: dict[str, TenantKeys] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if _PREFIX.fullmatch(self.prefix) is None:
            raise ConfigurationError(
                f"REDIS_CREW_PREFIX={self.prefix!r}: accepted are 2 to 64 of "
                "A-Z a-z 0-9 . _ / : - that start with a letter or digit and end "
                "with ':'"
            )

    def tenant(self, tenant_id: str) -> TenantKeys:
        """Return the keys of one tenant, the same object while it is remembered.

        Raises:
            InvalidTenantError: See `validate_tenant`.
        """
        try:
            return self._tenants[tenant_id]
        except (KeyError, TypeError):
            keys = TenantKeys(self.prefix, tenant_id)
        if len(self._tenants) >= _MAX_TENANTS_KEPT:
            # The oldest goes: cheap, and a wrong guess costs one validation.
            del self._tenants[next(iter(self._tenants))]
        self._tenants[tenant_id] = keys
        return keys

    @property
    def tenants(self) -> bytes:
        """The registry of tenants: a sorted set, score = the last day seen."""
        return f"{self.prefix}tenants".encode("ascii")

    def shares(self, name: str) -> bytes:
        """Who of several processes does what part of the work called `name`: a hash.

        Raises:
            InvalidIdentifierError: See `encode_identifier`.
        """
        return f"{self.prefix}shares:".encode("ascii") + encode_identifier(name)

    def namespace_prefix(self, namespace: str) -> bytes:
        """Return what every key of `namespace` starts with, whoever the tenant.

        Raises:
            DataError: The namespace is not one.
        """
        _validate_namespace(namespace)
        return f"{self.prefix}{namespace}:".encode("ascii")

    def parse(self, key: bytes) -> ParsedKey | None:
        """Invert `TenantKeys.key`; None for every key that it cannot have built."""
        head = self.prefix.encode("ascii")
        if not key.startswith(head):
            return None
        try:
            found = _KEY.fullmatch(key[len(head) :].decode("ascii"))
            if found is None or found[1] == QUEUE_NAMESPACE:
                return None
            encoded = found[4].encode("ascii")
            identifier = decode_identifier(encoded)
        except (UnicodeDecodeError, InvalidIdentifierError):
            return None
        is_spread = found[1] in SPREAD_NAMESPACES
        expected = str(_shard_of(encoded)) if is_spread else None
        if found[3] != expected:
            return None
        shard = int(expected) if expected is not None else None
        return ParsedKey(found[1], found[2], shard, identifier)
