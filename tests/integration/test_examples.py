"""Every example runs and prints what its `# Output:` block says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def promised_output(source: str) -> str:
    """Return what follows `# Output:` in the module's docstring."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return docstring.partition("# Output:\n")[2]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_its_output_block(example: Path) -> None:
    """What an example shows as its output is what it prints, and nothing fails."""
    promised = promised_output(example.read_text())

    done = subprocess.run(
        [sys.executable, "-W", "error", example],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert promised, f"{example.name} has no # Output: block"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == promised


def test_there_are_examples() -> None:
    """The glob finds the folder: an empty list would pass in silence."""
    assert EXAMPLES
