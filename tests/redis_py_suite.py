# ruff: noqa: T201  # a script: it prints
"""Run redis-py's own asyncio tests on our class, against redis-py as the measure.

`make redis-py-tests` fetches the source of the installed redis-py, starts a server and
runs redis-py's asyncio tests twice: with its own class, and with ours in its place.
Whatever passes there must pass here, except the lines of `redis_py_allow_list.toml`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from redis_py_rig import fetch_source, find_server, running_server

HERE = Path(__file__).resolve().parent
ALLOW_LIST = HERE / "redis_py_allow_list.toml"
OUR_CLASS = "mcp_crew_redis._core.client:PipelinedRedis"
NEEDED = ("pytest_asyncio", "pytest_timeout", "packaging", "numpy")
NOT_HERE = "not onlycluster and not redismod and not ssl and not cp_integration"
FILES = (
    "test_commands",
    "test_pipeline",
    "test_scripting",
    "test_lock",
    "test_pubsub",
    "test_monitor",
    "test_encoding",
    "test_hash",
    "test_vsets",
    "test_keyspace_notifications",
    "test_himport_integration",
    "test_usage_counter",
    "test_client",
    "test_connection",
    "test_connection_pool",
    "test_retry",
    "test_cwe_404",
    "test_utils",
)


@dataclass(slots=True)
class Outcome:
    """What became of one test, over its phases; the worst phase counts."""

    passed: bool = False
    failed: bool = False
    skipped: bool = False
    said: str = ""

    def add(self, line: dict[str, str]) -> None:
        """Take in one phase."""
        outcome = line["outcome"]
        if outcome == "failed":
            self.failed = True
            self.said = self.said or f"{line['when']}: {line['said']}"
        elif outcome in {"skipped", "xskipped"}:
            self.skipped = True
        elif line["when"] == "call":
            self.passed = True  # also one that was expected to fail, as pytest has it

    @property
    def word(self) -> str:
        """One word for all phases together."""
        if self.failed:
            return "failed"
        if self.skipped:
            return "skipped"
        return "passed" if self.passed else "unfinished"


Outcomes = dict[str, Outcome]


@dataclass(slots=True)
class Verdict:
    """The comparison of both runs, test by test."""

    passed_in_both: int = 0
    only_ours: int = 0
    neither: int = 0
    allowed: dict[str, list[str]] = field(default_factory=dict)  # by reason
    broken: dict[str, list[str]] = field(default_factory=dict)  # by what it said
    needless: list[str] = field(default_factory=list)


# --- one run ------------------------------------------------------------------------


def run_tests(source: Path, spec: str, options: argparse.Namespace) -> Outcomes:
    """Run redis-py's tests with the class of `spec` ("" for their own)."""
    notes = source.parent / f"outcomes-{'ours' if spec else 'theirs'}.jsonl"
    notes.touch()
    environment = os.environ | {
        "SWAP_CLASS": spec,
        "SWAP_OUTCOMES": str(notes),
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # ours would bring its own fixtures
    }
    output = notes.with_suffix(".txt")
    with running_server(find_server(options.server)) as port, output.open("w") as file:
        try:
            subprocess.run(
                _pytest_command(port, options),
                cwd=source,
                env=environment,
                check=False,
                timeout=options.time_limit,
                stdout=None if options.verbose else file,
                stderr=None if options.verbose else file,
            )
        except subprocess.TimeoutExpired:
            print(f"  stopped after {options.time_limit:.0f} s; the rest did not run")
    if not (outcomes := _read_outcomes(notes)):
        print("  no test ran:\n" + "\n".join(output.read_text().splitlines()[-15:]))
    return outcomes


def _pytest_command(port: int, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--capture=fd", "-p"]
    command += ["pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "redis_py_swap"]
    command += ["-p", "no:cacheprovider", "-m", NOT_HERE]
    command += ["--redis-url", f"redis://localhost:{port}/0"]
    command += ["--redis-mod-url", f"redis://localhost:{port}/0"]
    if options.protocol:
        command += ["--protocol", options.protocol]
    if options.uvloop:
        command += ["--uvloop"]
    if options.keyword:
        command += ["-k", options.keyword]
    return command + [f"tests/test_asyncio/{name}.py" for name in options.files]


def _read_outcomes(notes: Path) -> Outcomes:
    outcomes: Outcomes = {}
    for text in notes.read_text().splitlines():
        line = json.loads(text)
        outcomes.setdefault(line["test"], Outcome()).add(line)
    return outcomes


# --- the comparison -----------------------------------------------------------------


def read_allow_list(path: Path) -> dict[str, str]:
    """Return test -> reason.

    A name without brackets covers every parametrisation of that test; one that ends in
    `::` covers all that begins so.

    Raises:
        SystemExit: A line has no reason.
    """
    allowed = {}
    for entry in tomllib.loads(path.read_text()).get("allow", []):
        if not entry.get("reason", "").strip():
            raise SystemExit(f"{path.name}: {entry.get('test')} has no reason")
        allowed[entry["test"]] = entry["reason"]
    return allowed


def allowed_by(test: str, allowed: dict[str, str]) -> str | None:
    """Return the line of the allow-list that covers the test."""
    parts = test.split("[", 1)[0].split("::")
    groups = ["::".join(parts[:count]) + "::" for count in range(1, len(parts))]
    candidates = [test, test.split("[", 1)[0], *groups]
    return next((name for name in candidates if name in allowed), None)


def compare(theirs: Outcomes, ours: Outcomes, allowed: dict[str, str]) -> Verdict:
    """Hold both runs against each other."""
    verdict = Verdict()
    used = set()
    for test, before in theirs.items():
        after = ours.get(test, Outcome())
        if before.word != "passed":
            verdict.only_ours += after.word == "passed"
            verdict.neither += after.word != "passed"
        elif after.word == "passed":
            verdict.passed_in_both += 1
        elif (line := allowed_by(test, allowed)) is not None:
            used.add(line)
            verdict.allowed.setdefault(allowed[line], []).append(test)
        else:
            cause = f"{after.word} {after.said}".strip()
            verdict.broken.setdefault(cause, []).append(test)
    verdict.needless = sorted(set(allowed) - used)
    return verdict


def report(verdict: Verdict, *, partial: bool) -> None:
    """Print what the comparison found."""
    for title, groups in (("allowed", verdict.allowed), ("BROKEN", verdict.broken)):
        for cause, tests in groups.items():
            print(f"\n{title}, {len(tests)}: {cause[:300]}")
            print("\n".join(f"  {test}" for test in tests))
    allowed, broken = (
        sum(map(len, groups.values())) for groups in (verdict.allowed, verdict.broken)
    )
    if verdict.needless and not partial:
        print("\nallow-list lines that nothing needed in this run:")
        print("\n".join(f"  {line}" for line in verdict.needless))
    print(
        f"\n{verdict.passed_in_both} passed in both, {allowed} allowed, "
        f"{broken} broken; skipped or failing on redis-py too: "
        f"{verdict.neither}, passing on ours alone: {verdict.only_ours}"
    )


# --- command line -------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("--server", default="redis8", help="redis8 (default), valkey, or a binary")
    add("--protocol", choices=("2", "3"), help="RESP version; default is redis-py's")
    add("--uvloop", action="store_true", help="run on uvloop")
    add(
        "-k", dest="keyword", metavar="EXPR", help="only tests that match, as in pytest"
    )
    add("--time-limit", type=float, default=600.0, help="seconds per run")
    add("--sdist", metavar="FILE", help="redis-py's sdist, instead of fetching it")
    add("--class", dest="spec", default=OUR_CLASS, metavar="MODULE:CLASS")
    add("--verbose", action="store_true", help="show pytest's own output")
    add("files", nargs="*", default=FILES, metavar="test_commands", help="which files")
    return parser.parse_args(arguments)


def check_packages() -> None:
    """Stop early, by name, when something that their tests import is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"redis-py's tests need {', '.join(missing)}: "
            "install the dependency group 'test' (make test does)"
        )


def main(arguments: list[str]) -> int:
    """Run both sides and compare; 1 when something broke, 2 when nothing ran."""
    options = parse(arguments)
    check_packages()
    allowed = read_allow_list(ALLOW_LIST)
    runs = []
    with tempfile.TemporaryDirectory(prefix="redis-py-source-") as folder:
        source = fetch_source(Path(folder), options.sdist)
        print(f"{source.name} on {options.server}, RESP{options.protocol or 3}")
        for spec in ("", options.spec):
            begun = time.perf_counter()
            runs.append(run_tests(source, spec, options))
            took = time.perf_counter() - begun
            who = spec or "redis-py's own class"
            print(f"  {who}: {len(runs[-1])} tests, {took:.0f} s", flush=True)
    if not any(one.word == "passed" for one in runs[0].values()):
        print("nothing passed on redis-py itself: see --verbose")
        return 2
    verdict = compare(runs[0], runs[1], allowed)
    report(verdict, partial=bool(options.keyword) or options.files != FILES)
    return int(bool(verdict.broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
