"""What the demo prints: bars and colours on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text
from typing_extensions import Self

from ..models import ClusterProgress, HostState, Notice, RolloutProgress, RolloutReport
from ..policy import Outcome
from ._machines import Seen

GOOD, BAD, QUIET = "green", "bold red", "dim"
STATE_STYLES = {HostState.PATCHED: GOOD, HostState.FAILED: BAD, HostState.CANCELLED: "yellow"}


class Screen:
    """Prints."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, emoji=False)

    def say(self, text: str, style: str = "") -> None:
        """Prints a line, whatever the width."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def act(self, title: str) -> None:
        """Begins a part of the story."""
        self.say("")
        if self.console.is_terminal:
            self.console.rule(Text(title, style="bold"), align="left")
        else:
            self.say(f"== {title}")

    def notice(self, notice: Notice) -> None:
        """Prints what ``notify`` was told."""
        bad = notice.kind in ("host_failed", "stopped")
        self.say(f"  notice  {notice.text}", BAD if bad else QUIET)

    def report(
        self, report: RolloutReport, before: Mapping[str, Seen], after: Mapping[str, Seen]
    ) -> None:
        """Prints each host: what the report says, and what its directory and its service say."""
        style = GOOD if report.outcome is Outcome.PATCHED else BAD
        self.say(f"outcome: {report.outcome.value}", style)
        if report.reason:
            self.say(f"reason: {report.reason}")
        if report.left_out_of_service:
            self.say(f"left out of service: {', '.join(report.left_out_of_service)}", BAD)
        table = Table(box=None, pad_edge=False)
        for title in ("host", "reported", "in its directory", "its service answers", ""):
            table.add_column(title, no_wrap=True)
        reported = {each.host: each for each in report.hosts}
        for name, seen in after.items():
            told = reported.get(name)
            state = HostState.PATCHED if told is None else told.state
            was = before[name].version
            version = seen.version if seen.version == was else f"{was} → {seen.version}"
            table.add_row(
                name,
                Text(state.value, style=STATE_STYLES.get(state, QUIET)),
                version,
                seen.serves or "nothing",
                Text("in maintenance", style=BAD) if seen.maintenance else "",
            )
        self.console.print(table)

    async def ask(self, question: str) -> bool:
        """Asks on the terminal. Enter means yes, the end of input means no."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        def read() -> None:
            line = os.read(sys.stdin.fileno(), 1024).decode(errors="replace")
            if not answer.done():
                answer.set_result(line or "no")

        while True:
            self.console.print(Text(f"{question} [Y/n] ", style="bold"), end="")
            self.console.file.flush()
            # Not `input` in a thread: nothing could end that on Ctrl-C.
            loop.add_reader(sys.stdin.fileno(), read)
            try:
                said = (await answer).strip().casefold()
            finally:
                loop.remove_reader(sys.stdin.fileno())
            if said in ("", "y", "yes", "n", "no"):
                return said in ("", "y", "yes")
            answer = loop.create_future()


class Bars:
    """A bar for each cluster; without a terminal a line whenever a cluster has moved on."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._progress = Progress(
            TextColumn("  [bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[doing]}"),
            console=screen.console,
            disable=not screen.console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._lines: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, progress: RolloutProgress) -> None:
        """Shows where each cluster is."""
        for cluster in progress.clusters:
            done = sum(cluster.counts.values()) - cluster.counts[HostState.NOT_STARTED]
            doing = _doing(cluster)
            if self._progress.disable:
                line = f"  {cluster.cluster}  {done}/{cluster.hosts}  {doing}"
                if self._lines.get(cluster.cluster) != line:
                    self._screen.say(line)
                self._lines[cluster.cluster] = line
                continue
            if cluster.cluster not in self._bars:
                self._bars[cluster.cluster] = self._progress.add_task(
                    cluster.cluster, total=cluster.hosts, doing=""
                )
            bar = self._bars[cluster.cluster]
            self._progress.update(bar, completed=done, total=cluster.hosts, doing=doing)


def _doing(cluster: ClusterProgress) -> str:
    flying = f": {', '.join(cluster.in_flight)}" if cluster.in_flight else ""
    failed = len(cluster.failures)
    return f"{cluster.phase}{flying}" + (f", {failed} failed" if failed else "")
