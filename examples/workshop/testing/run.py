"""Runs pytest on the tests of this folder. `make workshop EXERCISE=testing`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import attrs

from ..stage import PATIENCE, Row, Stage

__all__ = ["Seen", "Test", "rows", "show"]

HERE = Path(__file__).parent

SETTINGS = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
junit_family = legacy
junit_duration_report = call
"""


@attrs.frozen
class Test:
    """One test, as pytest reports it.

    Attributes:
        passed: Whether it passed.
        seconds: How long it took, by the clock on the wall; its server's start does not count.
        workflow_seconds: How long its workflow took, by the server's clock, if the test says it.
    """

    __test__ = False  # for pytest: this is not a class of tests

    passed: bool
    seconds: float
    workflow_seconds: float | None


@attrs.frozen
class Seen:
    """What pytest reported.

    Attributes:
        by_hand: The tests of the workflow by hand.
        with_library: The tests of the subclass.
    """

    by_hand: Mapping[str, Test]
    with_library: Mapping[str, Test]


async def show(stage: Stage) -> Seen:
    stage.say("By hand: a workflow, its tests, and machines that had to be written for them.")
    by_hand = await _pytest(stage, "test_by_hand.py")
    stage.say("With the library: a subclass and its tests, on the machines of the library.")
    with_library = await _pytest(stage, "test_patch_web.py")
    return Seen(by_hand, with_library)


async def _pytest(stage: Stage, file: str) -> dict[str, Test]:
    settings, report = stage.folder / "pytest.ini", stage.folder / f"{file}.xml"
    settings.write_text(SETTINGS, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-c", settings, "--rootdir", HERE),
        *("-p", "no:cacheprovider", "--junitxml", report, HERE / file),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        start_new_session=True,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        with suppress(ProcessLookupError):  # it has ended, and so has the server that it started
            os.killpg(process.pid, signal.SIGKILL)
    if not report.exists():
        raise RuntimeError(f"pytest did not run: {said.decode(errors='replace')[-2000:]}")
    found = {
        case.attrib["name"]: _test(case)
        for case in ElementTree.parse(report).getroot().iter("testcase")
    }
    for name, test in found.items():
        stage.say(f"  {_said(name, test)}")
    return found


def _test(case: ElementTree.Element) -> Test:
    noted = case.find("properties/property[@name='workflow_seconds']")
    return Test(
        passed=all(case.find(word) is None for word in ("failure", "error", "skipped")),
        seconds=float(case.attrib["time"]),
        workflow_seconds=None if noted is None else float(noted.attrib["value"]),
    )


def _said(name: str, test: Test) -> str:
    verdict = "passed" if test.passed else "FAILED"
    if test.workflow_seconds is None:
        return f"{name}: {verdict} in {test.seconds:.2f} s"
    return (
        f"{name}: {verdict} in {test.seconds:.2f} s, while the workflow saw "
        f"{test.workflow_seconds:,.0f} s go by"
    )


def rows(seen: Seen) -> list[Row]:
    return [
        _expiry("by hand", seen.by_hand),
        _expiry("with the library", seen.with_library),
        _passes("by hand", "a host fails: services down", seen.by_hand, "test_a_host_fails"),
        _passes(
            "with the library",
            "a host is not healthy: held, and named",
            seen.with_library,
            "test_a_host_is_not_healthy",
        ),
        _passes(
            "with the library",
            "the own step is tried again",
            seen.with_library,
            "test_the_own_step_fails_twice",
        ),
    ]


def _expiry(form: str, tests: Mapping[str, Test]) -> Row:
    test = tests["test_nobody_approves"]
    hours = (test.workflow_seconds or 0) / 3600
    return Row(
        form,
        "nobody approves: 4 hours in a few seconds",
        f"{hours:.2f} hours in {test.seconds:.2f} s",
        test.passed and hours >= 4 and test.seconds < 30,
    )


def _passes(form: str, expected: str, tests: Mapping[str, Test], name: str) -> Row:
    test = tests[name]
    return Row(form, expected, "passed" if test.passed else "FAILED", test.passed)
