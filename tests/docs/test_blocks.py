"""Every block of the README and of `docs/` does what its page says.

How a page is read and run is told in `docs/contributing-docs.md`, and done in `pages.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.docs.elsewhere import ROOT, in_example, where
from tests.docs.pages import Page, PageError, blocks, commands, matches, with_prelude

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("README.md"))


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=_id)
async def test_page(page: Path, tmp_path: Path, address: str) -> None:
    """Each block of the page runs, and prints what is shown."""
    folder = tmp_path / "page"
    folder.mkdir()
    with Page(page.read_text(encoding="utf-8"), folder, address) as running:
        await asyncio.to_thread(running.run)


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=_id)
def test_what_is_run_elsewhere(page: Path) -> None:
    """A command that this test leaves to others is really run there; in the examples all are."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "console":
            for command, _ in commands(block.text):
                check = where(command)
                assert check is None or check(), f"line {block.line}: nobody runs {command!r}"
                known = check or page not in EXAMPLES or in_example(page.parent, command)
                assert known, f"line {block.line}: who runs {command!r}?"


@pytest.mark.parametrize("page", EXAMPLES, ids=_id)
def test_blocks_of_examples(page: Path) -> None:
    """The pages of the examples link their code; they show commands, and nothing that is not run."""
    languages = {block.language for block in blocks(page.read_text(encoding="utf-8"))}
    assert languages <= {"console"}


def test_every_example_is_linked() -> None:
    """Each page of an example can be reached from the page of the workshop."""
    text = (ROOT / "docs/workshop.md").read_text(encoding="utf-8")
    assert [_id(page) for page in EXAMPLES if f"(../{_id(page)})" not in text] == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("```rust\nfn main() {}\n```", "nothing runs a 'rust' block"),
        ("```\nmake demo\n```", "nothing runs a '' block"),
        ("    make demo\n", "nothing runs a '' block"),
        ("```python\nundefined\n```", "exit status 1"),
        ("```python\n# unused.py\nx = 1\n```", "nothing runs or imports unused.py"),
        ("```python\nprint(1)\n```\n```text\n2\n```", "and not"),
        ("```console\n$ false\n```", "exit status 1"),
        ("```console\n$ echo 1\n2\n```", "and not"),
        ('<!-- json: Vote -->\n```json\n{"by": ""}\n```', "must not be empty"),
        ("```json\n{}\n```", "needs a hidden comment"),
        ("<!-- terminal: one -->\n```console\n$ echo 1\n2\n```", "ended without showing"),
        ("<!-- prelude\nx = 1 -->", "belongs to no block"),
    ],
)
def test_wrong_pages_fail(source: str, complaint: str, tmp_path: Path) -> None:
    """A block that nothing runs, that fails, or that prints something else fails its page."""
    with pytest.raises(Exception, match=complaint):  # noqa: SIM117
        with Page(source, tmp_path, "nowhere:1") as page:
            page.run()


def test_right_pages_pass(tmp_path: Path) -> None:
    """Files, snippets with a prelude, commands and terminals work together in one folder."""
    source = """
```python
# greeting.py
print("hello")
```
<!-- terminal: one -->
```console
$ python greeting.py
hello
```
<!-- ends: one: hello -->
<!-- prelude
import asyncio
async def work():
    # the block
    return 2
print(await work())
-->
```python
await asyncio.sleep(0)
```
```text
2
```
<!-- exits: 3 -->
```console
$ python greeting.py && \\
    exit 3
h…o
```
"""
    with Page(source, tmp_path, "nowhere:1") as page:
        assert page.run() == 6


def test_matches() -> None:
    """`…` stands for a part of a line, and on a line of its own for any lines."""
    assert matches("a\n…\nd", "a\nb\nc\nd\n")
    assert matches("a\n…", "a\n")
    assert matches("took … s", "took 3.1 s\n")
    assert not matches("a", "a\nb\n")
    assert not matches("took … s", "took 3\n4 s\n")


def test_with_prelude() -> None:
    """A block stands where its prelude says, indented as there."""
    assert with_prelude("a\n\nb\n", "def f():\n    # the block\n    c") == (
        "def f():\n    a\n\n    b\n\n    c\n"
    )


def test_page_error_is_a_failed_assertion() -> None:
    """A page that is wrong is a failed test, not an error of the test."""
    assert issubclass(PageError, AssertionError)
