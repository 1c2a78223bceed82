"""No file tells of the machine that it was written on."""

from __future__ import annotations

import re

from tests.house.documents import ROOT

# Written in classes of one letter, so that this file does not hold what it looks for.
MACHINE = re.compile(r"(?<![\w.$}])/(?:[w]ork|[f]arm)/|[i]ndex-url")
SUFFIXES = {".py", ".md", ".lua", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".sh", ""}
SKIPPED = {"dist", "build", "__pycache__", "node_modules"}


def own_files():
    """Every text file of the project, without what tools leave behind."""
    folders = [ROOT, *(each for each in ROOT.iterdir() if is_own(each))]
    for folder in folders:
        found = folder.iterdir() if folder == ROOT else folder.rglob("*")
        for path in found:
            is_text = path.suffix in SUFFIXES and path.is_file()
            if is_text and not SKIPPED.intersection(path.parts):
                yield path


def is_own(folder):
    hidden = folder.name.startswith(".") and folder.name != ".ci"
    return folder.is_dir() and not hidden and folder.name not in SKIPPED


def test_no_file_speaks_of_a_machine():
    """Neither its folders nor where it gets its packages from."""
    files = list(own_files())
    offenders = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files
        if (found := MACHINE.search(path.read_text("utf-8", "replace")))
    ]

    assert len(files) > 100
    assert offenders == []
