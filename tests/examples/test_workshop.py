"""The workshop as a whole: its index, the shape of its folders, and names that are used once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples import workshop
from examples.workshop.__main__ import EXERCISES, find
from examples.workshop.machines import Fleet
from examples.workshop.stage import Stage

HERE = Path(workshop.__file__).parent
NEEDED = {"4": ["matplotlib"], "7": ["matplotlib", "prometheus_client"]}
FILES = ("__init__.py", "README.md", "by_hand.py", "run.py", "with_library.py")


def test_the_index_has_each_exercise() -> None:
    """Each exercise has its line, under the name by which it is run; each link leads to a file."""
    index = (HERE / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| \[(\S+)\]\((\S+)/README\.md\)", index, re.MULTILINE)
    assert named == list(EXERCISES.items())
    links = re.findall(r"\]\(([^)]+)\)", index)
    assert [link for link in links if not (HERE / link).is_file()] == []


@pytest.mark.parametrize("exercise", EXERCISES)
def test_each_folder_has_the_same_files(exercise: str) -> None:
    """Both forms, what compares them, and a page."""
    folder = HERE / EXERCISES[exercise]
    assert [name for name in FILES if not (folder / name).is_file()] == []
    for needed in NEEDED.get(exercise, ()):
        pytest.importorskip(needed, reason="the group 'workshop' is not installed")
    assert callable(find(exercise).show)
    assert callable(find(exercise).rows)


async def test_an_exercise_may_be_shown_twice(stage: Stage) -> None:
    """No id and no host of the first time is in the way of the second, on the same server."""
    exercise = find("0")
    for _ in range(2):
        assert all(row.holds for row in exercise.rows(await exercise.show(stage.anew())))


def test_a_fleet_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    """Machines that are there are not made again: their logs would be taken for the new ones'."""
    Fleet.make(tmp_path / "fleet", {"eu-1": ["a"]})
    with pytest.raises(FileExistsError, match="fleet"):
        Fleet.make(tmp_path / "fleet", {"us-1": ["b"]})
