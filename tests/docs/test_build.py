"""The documentation builds without a warning, and its reference has every public name."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from temporal_patching import models, policy
from temporal_patching.policy._verbs import LEGAL, VERBS

pytest.importorskip("sphinx", reason="the group 'docs' is not installed")

ROOT = Path(__file__).parents[2]
NAMES = (ROOT / "tests/unit/public_names.txt").read_text(encoding="utf-8").split()

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages."""
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", folder],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    return folder


def test_reference_is_complete(built: Path) -> None:
    """Each public name is in the reference, under that name or under its twin's in another room."""
    # Four lines of text, then compressed ones: name, domain and role, priority, address, title.
    entries = zlib.decompress((built / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    there = {line.split(" ", 1)[0] for line in entries.splitlines()}
    missing = [name for name in NAMES if name not in there]
    twins = {
        name: re.sub(r"^temporal_patching\.policy\.", "temporal_patching.models.", name)
        for name in missing
    }
    assert [name for name, twin in twins.items() if twin not in there] == []
    roots = {name.split(".")[2] for name in missing}
    assert [root for root in roots if getattr(policy, root) is not getattr(models, root)] == []


def test_the_table_of_verbs_is_there(built: Path) -> None:
    """It is made from the code, with a row for each verb."""
    page = (built / "reference" / "verbs.html").read_text(encoding="utf-8")
    table = page[page.index("<table") : page.index("</table>")]
    assert table.count("<tr") == len(VERBS) + 1
    assert table.count("✓") == sum(map(len, LEGAL.values()))


def test_pages_show_no_private_names(built: Path) -> None:
    """No signature names a private module of ours."""
    pages = {
        path: path.read_text(encoding="utf-8") for path in (built / "reference").glob("*.html")
    }
    assert len(pages) >= 9
    shown = {
        path.name: re.findall(r">(temporal_patching\.[\w.]*\._\w+[\w.]*)<", text)
        for path, text in pages.items()
    }
    assert {name: found for name, found in shown.items() if found} == {}
