"""Runs a page of the documentation as its reader would: see `docs/contributing-docs.md`."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from markdown_it import MarkdownIt

from temporal_patching import models
from temporal_patching.models._wire import from_json
from tests.docs.elsewhere import where
from tests.examples.programs import CRASHES

PATIENCE = 60
"""Seconds that one command, or one line that is waited for, may take."""

ADDRESS = "localhost:7233"
"""What the pages say; the test's own server takes its place."""

# A block with `await` outside of any function is the body of one.
RUNNER = """\
import ast, asyncio, os, sys
path = sys.argv[1]
with open(path) as file:
    code = compile(file.read(), path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
async def main():
    await eval(code, {"__name__": "__main__"})
asyncio.run(main())
sys.stdout.flush()
os._exit(0)
"""


class PageError(AssertionError):
    """A block does not do what its page says."""


@dataclass(frozen=True)
class Block:
    """One fenced block, or a hidden comment that is an instruction of its own."""

    line: int
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict[str, str])


def blocks(source: str) -> Iterator[Block]:
    """Every block of a page, in order, with the hidden comments that belong to it."""
    notes: dict[str, str] = {}
    for token in MarkdownIt("commonmark").parse(source):
        line = (token.map or [0])[0] + 1
        if token.type == "html_block":
            for comment in re.findall(r"<!--\s*(.*?)\s*-->", token.content, re.DOTALL):
                code = comment.startswith(("prelude", "hidden"))
                name, _, rest = comment.partition("\n" if code else ":")
                if name == "table":
                    continue  # of numbers: `test_numbers.py` compares them
                if name == "hidden":
                    yield Block(line, "python", f"{rest}\n")
                elif name in ("start", "ctrl-c", "ctrl-\\", "shows", "ends"):
                    yield Block(line, name, rest.strip())
                else:
                    notes[name] = rest if name == "prelude" else rest.strip()
        elif token.type in ("fence", "code_block"):
            yield Block(line, token.info.strip(), token.content, notes)
            notes = {}
    if notes:
        raise PageError(f"a hidden comment belongs to no block: {notes}")


class Terminal:
    """A command that runs on beside the others, as in another terminal of the reader's."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8")

    def shows(self, shown: str) -> None:
        """Wait until it has written these lines."""
        if not shown:
            return
        deadline = time.monotonic() + PATIENCE
        while not matches(shown + "\n…", self.output):
            if self.process.poll() is not None and not matches(shown + "\n…", self.output):
                raise PageError(f"ended without showing {shown!r}:\n{self.output}")
            if time.monotonic() > deadline:
                raise PageError(f"does not show {shown!r}:\n{self.output}")
            time.sleep(0.05)

    def end(self, number: signal.Signals | None) -> None:
        """Send it a signal, or none, and wait for its end."""
        if number is not None:
            os.killpg(self.process.pid, number)
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise PageError(f"does not end:\n{self.output}") from None
        if number is None and status != 0 and status not in CRASHES:
            raise PageError(f"exit status {status}:\n{self.output}")

    def kill(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)


def matches(shown: str, printed: str) -> bool:
    """Whether what a page shows is what was printed. `…` is anything, a line of its own any lines."""
    pattern = "".join(
        r"(?:.*\n)*?"
        if line.strip() in ("…", "...")
        else r"[^\n]*?".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ \t]*\n"
        for line in shown.strip("\n").splitlines()
    )
    return re.fullmatch(pattern, printed.rstrip("\n") + "\n") is not None


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown below it."""
    found: list[tuple[str, list[str]]] = []
    unfinished = False
    for line in text.splitlines():
        if line.startswith(("$ ", "# ")):  # the second one is root's
            found.append((re.sub(r"\s{2,}#.*", "", line[2:]), []))
        elif unfinished:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        elif found:
            found[-1][1].append(line)
        else:
            raise PageError(f"a console block begins with '$ ', not {line!r}")
        unfinished = line.endswith("\\") and (line.startswith(("$ ", "# ")) or unfinished)
    return ((command, "\n".join(shown)) for command, shown in found)


class Page:
    """One page, which is one folder."""

    def __init__(self, source: str, folder: Path, address: str) -> None:
        self._blocks = list(blocks(source))
        self._folder = folder
        self._address = address
        self._terminals: dict[str, Terminal] = {}
        self._printed = ""
        self._files: dict[str, str] = {}
        self._used: list[str] = []
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TEMPORAL_ADDRESS": address,
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
        }
        self._run: dict[str, Callable[[Block], None]] = {
            "python": self._python,
            "console": self._console,
            "json": self._json,
            "text": self._text,
            "start": self._start,
            "ctrl-c": lambda block: self._terminals[block.text].end(signal.SIGINT),
            "ctrl-\\": lambda block: self._terminals[block.text].end(signal.SIGQUIT),
            "shows": self._shows,
            "ends": self._ends,
        }

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for terminal in self._terminals.values():
            terminal.kill()

    def run(self) -> int:
        """Run every block, and return how many there were."""
        ran = 0
        for block in self._blocks:
            if re.fullmatch(r"\{[\w:.-]+\}.*", block.language):
                continue  # a directive: Sphinx runs it
            run = self._run.get(block.language)
            if run is None:
                raise PageError(f"line {block.line}: nothing runs a {block.language!r} block")
            try:
                run(block)
            except PageError as error:
                raise PageError(f"line {block.line}: {error}") from None
            ran += 1
        for name in self._files:
            others = [*self._used, *(text for other, text in self._files.items() if other != name)]
            if not any(re.search(rf"\b{Path(name).stem}\b", text) for text in others):
                raise PageError(f"nothing runs or imports {name}")
        return ran

    def _python(self, block: Block) -> None:
        first, _, _ = block.text.partition("\n")
        named = re.fullmatch(r"# ([\w/]+\.py)(, at the end)?", first)
        source = block.text if named else with_prelude(block.text, block.notes.get("prelude", ""))
        source = source.replace(ADDRESS, self._address)
        if named:
            path = self._folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            if named[2]:
                source = path.read_text(encoding="utf-8") + "\n" + source.partition("\n")[2]
            path.write_text(source, encoding="utf-8")
            compile(source, str(path), "exec")
            self._files[named[1]] = source
            if path.name.startswith("test_") or path.name == "conftest.py":
                self._used.append(path.stem)  # pytest finds it
            return
        self._used.append(source)
        path = self._folder / f"block_at_line_{block.line}.py"
        path.write_text(source, encoding="utf-8")
        code = compile(source, str(path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        awaits = bool(code.co_flags & inspect.CO_COROUTINE)
        self._printed = self._done(
            [sys.executable, *(["-c", RUNNER] if awaits else []), path.name], 0
        )

    def _done(self, command: list[str], exits: int) -> str:
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired as error:
            raise PageError(f"not done after {PATIENCE} s: {error.output!r}") from None
        # What a program printed that crashed at its end is looked at all the same.
        if done.returncode != exits and done.returncode not in CRASHES:
            raise PageError(f"exit status {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _console(self, block: Block) -> None:
        for command, shown in commands(block.text):
            if where(command) is not None:
                continue
            self._used.append(command)
            name = block.notes.get("terminal")
            if name is not None:
                self._open(name, command, block.line).shows(shown)
                continue
            self._printed = self._done(["bash", "-c", command], int(block.notes.get("exits", "0")))
            if shown and not matches(shown, self._printed):
                raise PageError(f"{command}\nprinted\n{self._printed}\nand not\n{shown}")

    def _open(self, name: str, command: str, line: int) -> Terminal:
        if name in self._terminals:
            self._terminals[name].kill()
        log = self._folder / f".{name}-{line}.log"
        self._terminals[name] = Terminal(command, self._folder, self._environment, log)
        return self._terminals[name]

    def _start(self, block: Block) -> None:
        name, command, shown = (part.strip() for part in block.text.split(":", 2))
        self._used.append(command)
        self._open(name, command, block.line).shows(shown)

    def _json(self, block: Block) -> None:
        kind, _, file = block.notes.get("json", "").partition(",")
        if not kind:
            raise PageError("a json block needs a hidden comment: <!-- json: PatchRequest -->")
        from_json(json.loads(block.text), getattr(models, kind))
        if file:
            (self._folder / file.strip()).write_text(block.text, encoding="utf-8")

    def _text(self, block: Block) -> None:
        if "shows-all" in block.notes:
            self._printed = self._terminals[block.notes["shows-all"]].output
        if not matches(block.text, self._printed):
            raise PageError(f"printed\n{self._printed}\nand not\n{block.text}")

    def _shows(self, block: Block) -> None:
        name, _, shown = block.text.partition(":")
        self._terminals[name].shows(f"…\n{shown.strip()}")

    def _ends(self, block: Block) -> None:
        name, _, shown = block.text.partition(":")
        terminal = self._terminals[name]
        terminal.end(None)
        if shown and shown.strip() not in terminal.output:
            raise PageError(f"does not show {shown.strip()!r}:\n{terminal.output}")


def with_prelude(source: str, prelude: str) -> str:
    """A block with what its page does not show: in the place of `# the block`, or below."""
    found = re.search(r"^([ ]*)# the block$", prelude, re.MULTILINE)
    if found is None:
        return f"{prelude}\n{source}"
    indented = "".join(
        found[1] + line if line.strip() else line for line in source.splitlines(keepends=True)
    )
    return prelude[: found.start()] + indented + prelude[found.end() :] + "\n"
