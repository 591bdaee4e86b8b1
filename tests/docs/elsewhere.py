"""Commands of the pages that are run elsewhere, and where that is: each entry is checked.

A command in a console block is run by `test_blocks.py` unless it is in this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _line(file: str, pattern: str) -> Callable[[re.Match[str]], bool]:
    """The file has such a line. ``TARGET`` in the pattern is what the command makes."""

    def check(command: re.Match[str]) -> bool:
        text = (ROOT / file).read_text(encoding="utf-8")
        target = re.escape(command.groupdict().get("target") or "")
        return re.search(pattern.replace("TARGET", target), text, re.MULTILINE) is not None

    return check


def _exercise(command: re.Match[str]) -> bool:
    """Each exercise has a test, which runs what the command runs."""
    from examples.workshop.__main__ import EXERCISES

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    chosen = [command["exercise"]] if command["exercise"] else list(EXERCISES)
    return "-m examples.workshop $(EXERCISE)" in makefile and all(
        each in EXERCISES and (ROOT / f"tests/examples/test_{EXERCISES[each]}.py").is_file()
        for each in chosen
    )


def _example(command: re.Match[str]) -> bool:
    """The example has a test, of its own or its folder's."""
    parts = command["name"].split(".")
    return any(any((ROOT / "tests").rglob(f"test_{part}.py")) for part in parts)


def in_example(folder: Path, command: str) -> bool:
    """Whether a command of an example's own page belongs to what the example's test runs."""
    if re.fullmatch(r"(cd|mkdir) [\w/.-]+", command):
        return True
    script = re.fullmatch(r"python ((\w+)\.py)( .*)?", command)
    test = ROOT / f"tests/examples/test_{folder.name}.py"
    return (
        script is not None
        and (folder / script[1]).is_file()
        and test.is_file()
        and script[2] in test.read_text(encoding="utf-8")
    )


ELSEWHERE: list[tuple[str, Callable[[re.Match[str]], bool]]] = [
    # The demo and the suite are what continuous integration runs.
    (r"make demo", _line(".ci/run", r"^make demo\b")),
    (r"make test", _line(".ci/run", r"^(\w+=\w+ )?make test$")),
    (r"make (?P<target>test-lowest|test-pythons)", _line(".ci/run", r"^make TARGET$")),
    (r"make (?P<target>lint|types|tests)\b.*", _line("Makefile", r"^test:.* TARGET( |$)")),
    # The soak's own test runs a short one.
    (
        r"make (?P<target>soak)( MINUTES=\d+)?( SEED=\d+)?",
        _line("tests/chaos/test_soak.py", r"await soak\("),
    ),
    # Nobody runs these: it is only looked whether there are such targets.
    (r"make (?P<target>format|help|pictures)", _line("Makefile", r"^TARGET:.*\n\t")),
    (r"make docs", _line("tests/docs/test_build.py", r'"-m", "sphinx", "-W"')),
    (r"make workshop( EXERCISE=(?P<exercise>\S+))?", _exercise),
    (r"python -m examples\.(?P<name>[\w.]+).*", _example),
    # A server: the pages' test starts the same program.
    (r"temporal server start-dev.*", _line("tests/docs/conftest.py", r"start_local")),
    # A new environment with the library in it: the test of a project outside of it makes one.
    (
        r"python3 -m venv \.venv|\. \.venv/bin/activate",
        _line("tests/consumer/test_consumer.py", r'"-m", "venv"'),
    ),
    (r"pip install .*", _line("tests/consumer/test_consumer.py", r'"-m", "pip", "install"')),
]


def where(command: str) -> Callable[[], bool] | None:
    """The check that a command is run elsewhere, or None if the pages' test runs it."""
    for pattern, check in ELSEWHERE:
        found = re.fullmatch(pattern, command)
        if found:
            return lambda: check(found)
    return None
