"""What is written in the documents: files, code blocks, promised outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "ROOT", "Block", "blocks_of", "programs_of"]

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "evolucao_projeto.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
#: Each block goes on where the one before it ended.
_CONTINUED = {"breaker.md"}
_BLOCK = re.compile(
    r"^```python\n(?P<source>.*?)^```$"
    r"(?:\n+(?:Output|Saída):\n+```text\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of Python in a document.

    Attributes:
        document: The file it stands in.
        line: The line of its first statement, from 1.
        source: The code.
        output: What the document says that it prints; None if it does not say.
    """

    document: Path
    line: int
    source: str
    output: str | None

    @property
    def is_dialogue(self) -> bool:
        """Whether it shows prompts and answers, as a doctest does."""
        return self.source.lstrip().startswith(">>>")

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    """Return every block of Python in a document, in order."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(
            document=document,
            line=text.count("\n", 0, match.start("source")) + 1,
            source=match["source"],
            output=match["output"],
        )
        for match in _BLOCK.finditer(text)
    ]


def programs_of(document: Path) -> list[Block]:
    """Return what of a document is to be run: each block, or all of them as one."""
    programs = [block for block in blocks_of(document) if not block.is_dialogue]
    if document.name not in _CONTINUED:
        return programs
    text = ""
    for block in programs:  # in their lines, so that tracebacks name them
        text += "\n" * (block.line - 1 - text.count("\n")) + block.source
    return [Block(document=document, line=1, source=text, output=None)]
