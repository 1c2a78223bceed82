"""Nothing documented is unexecuted, and nothing named is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.documents import DOCUMENTS, ROOT, blocks_of, programs_of

BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
DIALOGUES = sorted({block.document for block in BLOCKS if block.is_dialogue})
PROGRAMS = [block for document in DOCUMENTS for block in programs_of(document)]
DEADLINE = 30.0  # seconds for one block
FOLDERS = (ROOT, ROOT / "mcp_crew_redis", ROOT / "docs")
NAMED_FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|lua|toml|yaml|txt))`")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)\s]*)?\)")
COMMAND = re.compile(r"`make ([a-z-]+)|^make ([a-z-]+)", re.MULTILINE)


def run(arguments, folder):
    """Run Python on them, without the settings of whoever runs the tests."""
    usual = {name: value for name, value in os.environ.items() if name[:6] != "REDIS_"}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**usual, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_the_scan_finds_documents_and_blocks():
    """A scan of nothing would find nothing wrong."""
    assert all(document.is_file() for document in DOCUMENTS)
    assert len(DOCUMENTS) > 8
    assert len(PROGRAMS) > 10
    assert DIALOGUES


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_a_block_runs_and_prints_what_is_promised(block, tmp_path):
    """Each block is a whole program; its `Output:` is what it prints."""
    program = tmp_path / "block.py"
    # As many empty lines as stand above it: tracebacks name the document's lines.
    program.write_text("\n" * (block.line - 1) + block.source)

    done = run([program], tmp_path)

    # Warnings of the log may stand on standard error: some blocks show failures.
    is_clean = done.returncode == 0 and "Traceback" not in done.stderr
    assert is_clean, f"{block}\n{done.stderr}"
    if block.output is not None:
        assert done.stdout == block.output, str(block)


@pytest.mark.parametrize("document", DIALOGUES, ids=lambda path: path.name)
def test_a_dialogue_goes_as_it_is_written(document, tmp_path):
    """Each prompt gives the answer that is printed below it."""
    done = run(["-m", "doctest", "-o", "IGNORE_EXCEPTION_DETAIL", document], tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(document):
    """Links are taken from the document's folder, names also from the package's."""
    text = document.read_text(encoding="utf-8")
    links = [
        name
        for name in LINK.findall(CODE.sub("", text))
        if not (document.parent / name).exists()
    ]
    names = [
        name
        for name in NAMED_FILE.findall(text)
        if not any((place / name).exists() for place in FOLDERS)
    ]

    assert (links, names) == ([], [])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_a_document_names_exists(document):
    """`make demo` in a text is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = document.read_text(encoding="utf-8")

    named = {first or second for first, second in COMMAND.findall(text)}

    assert named <= targets


def test_every_document_in_docs_is_listed_in_its_index():
    """A page that nobody links to is a page that nobody reads."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}

    assert pages <= set(LINK.findall(index))


def test_the_changelog_keeps_to_its_form():
    """Keep a Changelog: an Unreleased part first, and its kinds of change only."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)

    assert parts[0] == "[Unreleased]"
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds
    entries = re.findall(r"^- (.+(?:\n  .+)*)$", text, re.MULTILINE)
    assert len(entries) > 5
    assert [entry for entry in entries if not entry.endswith(".")] == []


def test_what_the_package_carries_is_there():
    """The licence, the marker of type information, and both are shipped."""
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert (ROOT / "mcp_crew_redis" / "py.typed").is_file()
    assert Path(ROOT / "pyproject.toml").read_text().count('"LICENSE"') >= 1
