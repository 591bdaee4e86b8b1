"""The table of faults is whole, and each test that it or the table of findings names exists."""

from __future__ import annotations

import re
from pathlib import Path

from tests.sim import planted

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/explanation/faults.md"
FINDINGS = TESTS.parent / "docs/explanation/proof.md"
MARKED = re.compile(r"@pytest\.mark\.chaos\b[^\n]*\n(?:(?:@|\)|    )[^\n]*\n)*(?:async )?def (\w+)")


def rows() -> list[list[str]]:
    """The table's cells."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if re.match(r"\| \d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_every_fault_has_its_tests() -> None:
    """52 of the plan and some more, in order; none without a test unless the table says that it has none."""
    numbers = [int(row[0].strip(" |")) for row in rows()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 52
    for number, row in zip(numbers, rows(), strict=True):
        assert len(row) == 5, f"{number}: {row}"
        named = re.findall(r"`([\w/]+::\w+)`", row[4])
        assert named or "not tested" in row[3], f"{number} names no test"


def test_each_test_exists() -> None:
    """Under that name, in that file; those with a dagger are those that `make chaos` runs, and no others."""
    for row in rows():
        for file, name, dagger in re.findall(r"`([\w/]+)::(\w+)`(†?)", row[4]):
            text = (TESTS / f"{file}.py").read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{file}::{name}"
            assert bool(dagger) == (name in MARKED.findall(text)), f"{file}::{name}"


def test_what_keeps_each_finding_exists() -> None:
    """Each test and each regression that the page "Proof" names."""
    text = FINDINGS.read_text(encoding="utf-8")
    tests = re.findall(r"`([\w/]+)::(\w+)`", text)
    assert len(tests) > 4
    for file, name in tests:
        body = (TESTS / f"{file}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", body, re.MULTILINE), f"{file}::{name}"
    kept = re.findall(r"`(regressions/[\w.-]+)`", text)
    assert kept
    for path in kept:
        assert (TESTS / path).is_file(), path


def test_the_page_of_planted_bugs_is_what_is_generated() -> None:
    """The rules are those of now, the rows are its own, and everything else stays as it is."""
    text = FINDINGS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| ([SL]\d+) \| ([\d,]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    caught = [
        planted.Caught(
            name=name,
            by=by,
            said="",
            seed=None,
            runs=int(runs.replace(",", "")),
            seconds=float(seconds),
        )
        for name, by, runs, seconds in rows
    ]
    assert {each.name for each in caught} == set(planted.BUGS)
    last = re.search(r"^\| nothing \| nothing \| ([\d,]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert last is not None
    runs, seconds = int(last[1].replace(",", "")), float(last[2])
    assert runs >= max(each.runs for each in caught)
    clean = planted.Caught(name="", by=None, said="", seed=None, runs=runs, seconds=seconds)
    assert planted.page(text, caught, clean) == text
