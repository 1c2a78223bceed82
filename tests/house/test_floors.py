"""The house: imports go down the floors, modules and functions stay small."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ANSI = re.compile(r"\x1b\[[0-9;]*m")
ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "mcp_crew_redis"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 40


def functions():
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def body_lines(function):
    """Lines from the signature to the end, without the docstring."""
    size = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        size -= first.end_lineno - first.lineno + 1
    return size


def test_the_scan_finds_the_package():
    """A scan of nothing would find nothing wrong."""
    assert len(MODULES) > 20
    assert sum(1 for _ in functions()) > 100


def test_imports_go_down_the_floors():
    """Every import-linter contract of pyproject.toml is kept, on a real graph."""
    program = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = ANSI.sub("", done.stdout)
    analyzed = re.search(r"Analyzed (\d+) files?, (\d+) dependenc", text)
    verdict = re.search(r"Contracts: (\d+) kept, (\d+) broken", text)

    assert analyzed, f"import-linter did not run:\n{text}\n{done.stderr}"
    assert verdict, f"import-linter checked nothing:\n{text}\n{done.stderr}"
    assert int(analyzed[1]) >= len(MODULES), "the scan missed modules"
    assert int(analyzed[2]) > len(MODULES), "the scan found next to no imports"
    assert verdict[2] == "0", text
    assert int(verdict[1]) >= 3, f"contracts are missing:\n{text}"
    assert done.returncode == 0, text


def test_modules_stay_small():
    """A module that outgrows its limit is two modules."""
    sizes = {path: len(path.read_text().splitlines()) for path in MODULES}
    offenders = [
        f"{path.relative_to(ROOT)}: {size} lines"
        for path, size in sizes.items()
        if size > MAX_MODULE_LINES
    ]

    assert not offenders, f"over {MAX_MODULE_LINES}:\n" + "\n".join(offenders)


def test_functions_stay_small():
    """A function does one thing; the docstring is not counted."""
    offenders = [
        f"{module.relative_to(ROOT)}:{node.lineno} {node.name}: {body_lines(node)}"
        for module, node in functions()
        if body_lines(node) > MAX_FUNCTION_LINES
    ]

    assert not offenders, f"over {MAX_FUNCTION_LINES} lines:\n" + "\n".join(offenders)


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_says_what_it_is(module):
    """Every module has a docstring, and no placeholder."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""

    assert text.strip()
    assert "TBD" not in text
