"""Rules of tenant ids, identifiers and globs."""

from __future__ import annotations

import pytest

from mcp_crew_redis._wire.identifiers import (
    decode_identifier,
    encode_glob,
    encode_identifier,
    escape_glob,
    hashed_identifier,
    validate_tenant,
)
from mcp_crew_redis.errors import InvalidIdentifierError, InvalidTenantError


@pytest.mark.parametrize("tenant_id", ["a", "9", "account123", "a.b_c-D", "a" * 64])
def test_tenant_of_the_grammar_is_taken_as_it_is(tenant_id):
    """Nothing is normalised: two ids must not become one."""
    assert tenant_id == validate_tenant(tenant_id)


@pytest.mark.parametrize(
    "tenant_id",
    [
        *("", "-a", "a-", ".a", "_a", "a_", "a" * 65, "a b", "a\n", "\na"),
        *("t*", "t?", "[a]", "{a}", "a}", "{", "a:b", "a/7", "a|b", "a\\b"),
        *("é", "a\x00b", "٣", "\ud800", None, 7, b"account123", ["a"], True),
    ],
)
def test_tenant_outside_the_grammar_is_refused(tenant_id):
    """Hash tags, globs, ACL separators, white space and other types are refused."""
    with pytest.raises(InvalidTenantError):
        validate_tenant(tenant_id)


def test_plain_identifier_is_its_own_encoding():
    """The allowed characters stand for themselves."""
    plain = "AZaz09._~:@/+=-"

    assert plain.encode() == encode_identifier(plain)


def test_other_characters_are_percent_encoded_as_utf8():
    """Braces, globs, spaces, percent signs and non-ASCII text are encoded."""
    assert encode_identifier("a{b}*%ç \n") == b"a%7Bb%7D%2A%25%C3%A7%20%0A"


@pytest.mark.parametrize("identifier", ["", "a" * 513, "é" * 86, "*" * 171])
def test_identifier_of_wrong_length_is_refused(identifier):
    """Empty, or over 512 bytes once encoded."""
    with pytest.raises(InvalidIdentifierError, match="512"):
        encode_identifier(identifier)


@pytest.mark.parametrize("identifier", ["a" * 512, "é" * 85, "*" * 170])
def test_longest_identifier_is_accepted(identifier):
    """Up to 512 bytes once encoded."""
    assert identifier == decode_identifier(encode_identifier(identifier))


@pytest.mark.parametrize("identifier", ["\ud800", "a\udfffb", None, 3, b"a", ["a"]])
def test_identifier_that_is_no_text_is_refused(identifier):
    """Lone surrogates and other types never reach a key."""
    with pytest.raises(InvalidIdentifierError):
        encode_identifier(identifier)


@pytest.mark.parametrize(
    "encoded", [b"%41", b"%c3%a7", b"%zz", b"%", b"{", b"%FF", b""]
)
def test_bytes_that_no_identifier_encodes_to_are_refused(encoded):
    """There is one encoding per identifier, so others are foreign."""
    with pytest.raises(InvalidIdentifierError):
        decode_identifier(encoded)


def test_hashed_parts_do_not_run_into_each_other():
    """Length and kind of each part are hashed with it."""
    digests = {
        hashed_identifier("ab", "c"),
        hashed_identifier("a", "bc"),
        hashed_identifier("abc"),
        hashed_identifier("abc", ""),
        hashed_identifier(b"abc"),
        hashed_identifier(),
    }

    assert len(digests) == 6
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize("part", ["\ud800", 7, None])
def test_part_that_cannot_be_hashed_is_refused(part):
    """Only valid text and bytes have a hash here."""
    with pytest.raises(InvalidIdentifierError):
        hashed_identifier(part)


@pytest.mark.parametrize(
    ("match", "pattern"),
    [
        ("*", b"*"),
        ("topic:*", b"topic:*"),
        ("a?[a-z]", b"a?[a-z]"),
        ("[^ab]^", b"[^ab]%5E"),
        ("café*", b"caf%C3%A9*"),
        ("}:{other}", b"%7D:%7Bother%7D"),
        (r"\*", b"%2A"),
        ("end\\", b"end%5C"),
    ],
)
def test_glob_keeps_its_meaning_and_encodes_the_rest(match, pattern):
    """Metacharacters stay; an escaped one is a character of the identifier."""
    assert pattern == encode_glob(match)


@pytest.mark.parametrize("match", ["", "a" * 513, "*" * 10_000_000, "\ud800*"])
def test_glob_that_cannot_match_is_refused(match):
    """Empty, too long or no text."""
    with pytest.raises(InvalidIdentifierError):
        encode_glob(match)


def test_escaped_text_matches_itself_only():
    """`escape_glob` leaves no metacharacter standing."""
    text = r"a*b?[c]\d"

    assert encode_glob(escape_glob(text)) == encode_identifier(text)
