"""Laws of keys: distinct inputs give distinct keys, parsing inverts building."""

from __future__ import annotations

import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_crew_redis._wire.identifiers import decode_identifier, encode_identifier
from mcp_crew_redis._wire.keys import KeySpace, cluster_slot, hash_tag
from mcp_crew_redis.errors import (
    DataError,
    InvalidIdentifierError,
    InvalidTenantError,
)
from mcp_crew_redis.types import DataType

SPACE = KeySpace()
NAMESPACES = [*(kind.value for kind in DataType), "meta", "lock"]

tenants = st.from_regex(
    re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?"), fullmatch=True
)
namespaces = st.sampled_from(NAMESPACES)
identifiers = st.text(min_size=1, max_size=80).filter(
    lambda text: len(text.encode("utf-8", "surrogatepass")) <= 170
)
triples = st.tuples(namespaces, tenants, identifiers)

HOSTILE = [
    *("{", "}", "{}", "}:{", "*", "?", "[", "]", "\\", ":", "/", "|", "%", "%7B"),
    *("\n", "\r\n", " ", "\x00", "é", "\u202e", "\ud800", "\U0001f600", "a", "t1", "b"),
    *("mcp-crew:", "knowledge:", "account123", "{account123}", "/7", "..", "~", "@"),
]


def _build(namespace, tenant, identifier):
    return SPACE.tenant(tenant).key(namespace, identifier)


@settings(derandomize=True)
@given(triples, triples)
def test_distinct_inputs_give_distinct_keys(one, other):
    """Building is injective, whatever the identifiers hold."""
    assert (_build(*one) == _build(*other)) == (one == other)


@settings(derandomize=True)
@given(triples)
def test_parse_inverts_build(triple):
    """Every key gives back what it was built of; its tag is its tenant."""
    key = _build(*triple)
    parsed = SPACE.parse(key)

    assert parsed is not None
    assert (parsed.namespace, parsed.tenant, parsed.identifier) == triple
    shard = "" if parsed.shard is None else f"/{parsed.shard}"
    assert hash_tag(key) == f"{triple[1]}{shard}".encode()
    assert cluster_slot(key) in range(16_384)


@settings(derandomize=True, max_examples=500)
@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))
)
def test_parse_gives_none_or_what_builds_the_key_again(tail):
    """No bytes parse to a triple that they are not the key of."""
    for key in (tail, b"mcp-crew:" + tail, b"mcp-crew:state:{" + tail):
        parsed = SPACE.parse(key)
        if parsed is not None:
            assert key == _build(parsed.namespace, parsed.tenant, parsed.identifier)


@settings(derandomize=True)
@given(st.text(max_size=600))
def test_identifier_is_refused_or_comes_back(identifier):
    """Nothing is lost, cut or normalised on the way."""
    try:
        encoded = encode_identifier(identifier)
    except InvalidIdentifierError:
        return
    assert decode_identifier(encoded) == identifier
    assert re.fullmatch(rb"[A-Za-z0-9._~:@/+=%-]{1,512}", encoded)


@settings(derandomize=True)
@given(tenants, st.text(max_size=40))
def test_scan_pattern_never_leaves_its_tenant(tenant, match):
    """Its head is literal: no metacharacter stands before the match."""
    try:
        pattern = SPACE.tenant(tenant).pattern("state", match)
    except InvalidIdentifierError:
        return
    head = f"mcp-crew:state:{{{tenant}}}:".encode()

    assert pattern.startswith(head)
    assert not re.search(rb"[*?\[\]\\]", head)
    assert not re.search(rb"[{}]", pattern[len(head) :])


def test_five_thousand_hostile_triples_never_cross_a_tenant():
    """Each is refused, or its key belongs to its own tenant and to it alone."""
    random = Random(20_240_501)
    built = {}
    for _ in range(5_000):
        triple = tuple(_hostile(random) for _ in range(3))
        try:
            key = _build(*triple)
        except (InvalidTenantError, InvalidIdentifierError, DataError):
            continue
        assert built.setdefault(key, triple) == triple
        assert hash_tag(key).partition(b"/")[0] == triple[1].encode()
        parsed = SPACE.parse(key)
        assert parsed is not None
        assert (parsed.namespace, parsed.tenant, parsed.identifier) == triple

    assert len(built) > 500  # enough got through to mean something


def _hostile(random):
    if random.random() < 0.6:
        return random.choice(["state", "embedding", "t1", "T1", "account123"])
    return "".join(random.choice(HOSTILE) for _ in range(random.randint(0, 4)))
