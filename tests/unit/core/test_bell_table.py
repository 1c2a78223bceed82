"""Who is told of a key, and what the server is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_crew_redis._core.bell_listening import BellListener, Registration
from mcp_crew_redis._core.bell_table import BellTable, head_of, is_covered
from mcp_crew_redis.errors import ConfigurationError


class Owner:
    """A bell that takes no notice."""

    def left(self, registration):
        pass

    def pace_changed(self):
        pass

    def hasten(self, registration):
        pass


def table_of(*prefixes):
    table = BellTable()
    registrations = [Registration(p, BellListener(), Owner()) for p in prefixes]
    for registration in registrations:
        table.add(registration)
    return table, registrations


def told(table, *keys):
    return {reg.prefix: own for reg, own in table.sort(keys).items()}


def test_cover_has_no_prefix_within_another():
    """The server refuses overlaps; the widest of each is enough."""
    table, _ = table_of(b"a:", b"a:b:", b"a", b"b:{t}:", b"b:{u}:", b"ba:")
    assert table.cover() == {b"a", b"b:", b"ba:"}


def test_cover_shrinks_when_the_last_of_a_prefix_leaves():
    """Counted, so the first to leave takes nothing from the others."""
    table, (first, second) = table_of(b"a:{t}:", b"a:{u}:")
    table.remove(first)
    assert table.cover() == {b"a:"}
    table.remove(second)
    assert table.cover() == frozenset()
    assert (len(table), table._tenants, table._open) == (0, {}, {})


def test_tenants_prefix_takes_its_tenants_keys_only():
    """Not those of a tenant that begins alike, nor of another namespace."""
    table, _ = table_of(b"a:{t}:", b"a:{t}:sub:")
    keys = [b"a:{t}:x", b"a:{t}:sub:x", b"a:{tt}:x", b"b:{t}:x", b"a:{t", b"a:t"]
    assert told(table, *keys) == {
        b"a:{t}:": [b"a:{t}:x", b"a:{t}:sub:x"],
        b"a:{t}:sub:": [b"a:{t}:sub:x"],
    }


def test_open_prefix_takes_keys_with_and_without_a_tenant():
    """The registry of tenants has no tenant."""
    table, _ = table_of(b"a:", b"a:tenants")
    assert told(table, b"a:tenants", b"a:n:{t}:x", b"b:x") == {
        b"a:": [b"a:tenants", b"a:n:{t}:x"],
        b"a:tenants": [b"a:tenants"],
    }


def test_routes_follow_what_is_registered():
    """What is remembered of a namespace ends with each change."""
    table, (wide,) = table_of(b"a:")
    assert told(table, b"a:{t}:x") == {b"a:": [b"a:{t}:x"]}
    table.remove(wide)
    assert told(table, b"a:{t}:x") == {}


def test_remembered_namespaces_are_bounded():
    """Keys come from anybody."""
    table, _ = table_of(b"a:")
    table.sort([b"a:%d{t}:x" % number for number in range(5000)])
    assert len(table._routes) <= 1024


@pytest.mark.parametrize("prefix", [b"", b"{t}:", b"a:{t", b"a:{"])
def test_prefix_that_tells_too_much_is_refused(prefix):
    """Every key, or those of tenants that begin alike."""
    with pytest.raises(ConfigurationError):
        head_of(prefix)


parts = st.sampled_from([b"a", b"b", b":", b"{a}", b"{b}", b"{", b"}"])
names = st.lists(parts, min_size=1, max_size=6).map(b"".join)


def is_good(prefix):
    try:
        return bool(head_of(prefix))
    except ConfigurationError:
        return False


@given(st.lists(names.filter(is_good), max_size=6), st.lists(names, max_size=8))
def test_everybody_is_told_exactly_what_begins_with_its_prefix(prefixes, keys):
    """Whatever the names look like: as a scan of everybody would, and each once."""
    table, registrations = table_of(*prefixes)
    found = table.sort(keys)
    for registration in registrations:
        wanted = [key for key in keys if key.startswith(registration.prefix)]
        assert found.get(registration, []) == wanted
        assert not wanted or is_covered(registration.prefix, table.cover())
