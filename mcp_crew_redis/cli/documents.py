"""The Markdown of a repository, as shared knowledge by type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path

from mcp_crew_redis.types import KnowledgeType

__all__ = ["Document", "documents_of"]

_MAX_BYTES = 256 * 1024
_MAX_DOCUMENTS = 20
_MAX_NAME = 100
_TYPES = (
    ("README*.md", KnowledgeType.PRODUCT),
    ("docs/*.md", KnowledgeType.PROCEDURE),
    ("*.md", KnowledgeType.GENERAL),
)
"""Patterns and what they find; the first that finds a file decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One file.

    Attributes:
        name: Its path within the repository, without the suffix.
        type: What it is about.
        text: What it says.
    """

    name: str
    type: KnowledgeType
    text: str


def documents_of(root: Path) -> list[Document]:
    """Return up to 20 documents of the repository at `root`.

    Where there is none, this package's own README, which comes with its installation.
    """
    found = [one for path, kind in _files(root) if (one := _read(root, path, kind))]
    return found[:_MAX_DOCUMENTS] or [_own_readme()]


def _files(root: Path) -> Iterator[tuple[Path, KnowledgeType]]:
    seen: set[Path] = set()
    for pattern, kind in _TYPES:
        for path in sorted(root.glob(pattern)):
            if path not in seen:
                seen.add(path)
                yield path, kind


def _read(root: Path, path: Path, kind: KnowledgeType) -> Document | None:
    """Return the document; None for one that is too large or cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    name = path.relative_to(root).with_suffix("").as_posix()
    if len(name) > _MAX_NAME or not (name.isascii() and name.isprintable()):
        return None
    return Document(name=name, type=kind, text=text)


def _own_readme() -> Document:
    text = str(metadata("mcp-crew-redis").json.get("description", ""))
    return Document(name="README", type=KnowledgeType.PRODUCT, text=text)
