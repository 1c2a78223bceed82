"""What may stand in a key: tenant ids, encoded identifiers, globs over them.

A tenant id is refused or taken as it is. An identifier is encoded, never interpreted:
percent-encoding of UTF-8 outside `[A-Za-z0-9._~:@/+=-]`, so two identifiers never meet
in one key and none can reach into another part of it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from mcp_crew_redis.errors import InvalidIdentifierError, InvalidTenantError

__all__ = [
    "MAX_IDENTIFIER_BYTES",
    "PLAIN",
    "TENANT_GRAMMAR",
    "decode_identifier",
    "encode_glob",
    "encode_identifier",
    "escape_glob",
    "hashed_identifier",
    "validate_tenant",
]

MAX_IDENTIFIER_BYTES: Final = 512
TENANT_GRAMMAR: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?"
PLAIN: Final = re.compile(r"[A-Za-z0-9._~:@/+=-]{1,512}")  # its own encoding
_SAFE_PUNCTUATION: Final = "._~:@/+=-"
_TENANT = re.compile(TENANT_GRAMMAR)


def validate_tenant(tenant_id: str) -> str:
    """Return `tenant_id`, or refuse it.

    Refused, never repaired: two ids must not become one. The grammar has no brace,
    glob character, backslash, colon, slash or white space, so an id can neither
    close the hash tag nor match another tenant in an ACL or SCAN pattern.

    Raises:
        InvalidTenantError: It is not a string of the grammar.
    """
    try:
        if _TENANT.fullmatch(tenant_id) is not None:
            return tenant_id
    except TypeError:
        pass  # None, a number, bytes: refused like any other bad id
    raise InvalidTenantError(
        "a tenant id has 1 to 64 of A-Z a-z 0-9 _ . - and starts and ends with "
        "a letter or digit"
    )


def encode_identifier(identifier: str) -> bytes:
    """Percent-encode `identifier` for its place at the end of a key.

    Raises:
        InvalidIdentifierError: It is not a string, empty, holds a lone surrogate, or
            has over 512 bytes once encoded.
    """
    if not isinstance(identifier, str):
        raise InvalidIdentifierError(
            f"an identifier is a str, not {type(identifier).__name__}"
        )
    if PLAIN.fullmatch(identifier):
        return identifier.encode("ascii")
    # The first look keeps a huge string from being encoded only to be refused.
    if not 0 < len(identifier) <= MAX_IDENTIFIER_BYTES:
        raise _wrong_length()
    try:
        encoded = quote(identifier, safe=_SAFE_PUNCTUATION).encode("ascii")
    except UnicodeEncodeError:
        raise InvalidIdentifierError(
            "an identifier must be valid Unicode; this one holds a lone surrogate"
        ) from None
    if len(encoded) > MAX_IDENTIFIER_BYTES:
        raise _wrong_length()
    return encoded


def _wrong_length() -> InvalidIdentifierError:
    return InvalidIdentifierError(
        f"an identifier has 1 to {MAX_IDENTIFIER_BYTES} bytes once percent-encoded; "
        "hash longer ones with hashed_identifier()"
    )


def decode_identifier(encoded: bytes) -> str:
    """Invert `encode_identifier`.

    Raises:
        InvalidIdentifierError: `encode_identifier` did not make these bytes.
    """
    try:
        identifier = unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidIdentifierError("not an encoded identifier") from None
    if encode_identifier(identifier) != encoded:
        raise InvalidIdentifierError("not an encoded identifier")
    return identifier


def hashed_identifier(*parts: str | bytes) -> str:
    """Return 64 hex digits standing for `parts`: for secrets and texts in a key.

    SHA-256 over each part's kind and length before the part itself, so that
    ("ab", "c"), ("a", "bc") and (b"ab", "c") differ.

    Raises:
        InvalidIdentifierError: A part holds a lone surrogate, or is not text or bytes.
    """
    digest = sha256()
    for part in parts:
        if not isinstance(part, str | bytes):
            raise InvalidIdentifierError(
                f"a hashed part is str or bytes, not {type(part).__name__}"
            )
        try:
            raw = part.encode("utf-8") if isinstance(part, str) else part
        except UnicodeEncodeError:
            raise InvalidIdentifierError(
                "a hashed part must be valid Unicode; this one holds a lone surrogate"
            ) from None
        kind = b"s" if isinstance(part, str) else b"b"
        digest.update(kind + len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def escape_glob(text: str) -> str:
    """Escape `text` so that it stands for itself in a `match` pattern."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def encode_glob(match: str) -> bytes:
    r"""Encode `match` for the end of a SCAN pattern.

    `*`, `?`, `[`, `]`, `\` and a `^` that follows `[` keep their meaning; every other
    character is encoded as in an identifier.

    Raises:
        InvalidIdentifierError: It is empty, too long or not valid Unicode.
    """
    encoded = bytearray()
    characters = iter(match)
    for character in characters:
        if character in "*?[]" or (character == "^" and encoded.endswith(b"[")):
            encoded += character.encode("ascii")
        elif character == "\\":
            encoded += encode_identifier(next(characters, "\\"))
        else:
            encoded += encode_identifier(character)
        if len(encoded) > MAX_IDENTIFIER_BYTES:
            break
    if not 0 < len(encoded) <= MAX_IDENTIFIER_BYTES:
        raise _wrong_length()
    return bytes(encoded)
