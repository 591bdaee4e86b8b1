"""The machines of the workshop: a folder each, whose log is the truth. Any process may work on them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

__all__ = ["Entry", "Fleet", "Machine"]


@attrs.frozen
class Entry:
    """One line of a machine's log.

    Attributes:
        at: When, in seconds since the epoch.
        what: Which step, or ``"unit 3"`` of the update.
    """

    at: float
    what: str


@attrs.frozen
class Machine:
    """One machine. Nothing is kept in memory: what is true is in its folder."""

    folder: Path
    step_seconds: float
    unit_seconds: float
    units: int

    @property
    def name(self) -> str:
        return self.folder.name

    async def do(self, step: str) -> None:
        """Does one step: it takes a moment, and is in the log once it is done.

        Raises:
            RuntimeError: The machine is broken at this step.
        """
        await asyncio.sleep(self.step_seconds)
        if step == self._broken_at():
            raise RuntimeError(f"{self.name}: {step} does not work")
        self._write(step)

    async def update_unit(self, unit: int) -> None:
        """Does one of the units that an update consists of. Call it for 0 to ``units - 1``."""
        await asyncio.sleep(self.unit_seconds)
        self._write(f"unit {unit}")

    async def drain(self) -> None:
        """Waits until nobody works here any more."""
        while True:
            await asyncio.sleep(self.step_seconds)
            if not (self.folder / "users").exists():
                self._write("wait_for_workload_drain")
                return

    def let_users_in(self) -> None:
        """From now on somebody works here: it does not drain."""
        (self.folder / "users").touch()

    def send_users_home(self) -> None:
        """Nobody works here any more: it drains."""
        (self.folder / "users").unlink()

    def break_at(self, step: str | None) -> None:
        """From now on a step fails; None mends the machine."""
        (self.folder / "broken").write_text(step or "", encoding="utf-8")

    def log(self) -> list[Entry]:
        """All that was ever done here, in order."""
        path = self.folder / "log"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [Entry(float(at), what) for at, what in (line.split(" ", 1) for line in lines)]

    def done(self) -> list[str]:
        """What was done here, without the times."""
        return [entry.what for entry in self.log()]

    @property
    def in_service(self) -> bool:
        """Whether it is not in maintenance mode."""
        return self._last("clear_maintenance_mode") >= self._last("set_maintenance_mode")

    @property
    def services_running(self) -> bool:
        """Whether its services run."""
        return self._last("start_services") >= self._last("stop_services")

    @property
    def updated(self) -> bool:
        """Whether each unit of the update is there."""
        return {f"unit {unit}" for unit in range(self.units)} <= set(self.done())

    def _last(self, step: str) -> int:
        return max((index for index, what in enumerate(self.done()) if what == step), default=-1)

    def _broken_at(self) -> str:
        path = self.folder / "broken"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def _write(self, what: str) -> None:
        with open(self.folder / "log", "a", encoding="utf-8") as file:
            file.write(f"{time.time():.3f} {what}\n")


@attrs.frozen
class Fleet:
    """Clusters of machines in a folder, which may be made here or by another process."""

    folder: Path

    @classmethod
    def make(
        cls,
        folder: Path,
        clusters: Mapping[str, Sequence[str]],
        *,
        step_seconds: float = 0.02,
        unit_seconds: float = 0.05,
        units: int = 4,
    ) -> Fleet:
        """Makes the machines.

        Args:
            folder: A folder for them, which is not there yet.
            clusters: The names of each cluster's machines.
            step_seconds: What a step takes.
            unit_seconds: What a unit of an update takes.
            units: How many units an update has.

        Raises:
            FileExistsError: The folder is there: these would be another fleet's machines.
        """
        if folder.exists():
            raise FileExistsError(f"{folder} is there already: each fleet needs one of its own")
        pace = {"step_seconds": step_seconds, "unit_seconds": unit_seconds, "units": units}
        for cluster, names in clusters.items():
            for name in names:
                (folder / cluster / name).mkdir(parents=True)
        (folder / "pace.json").write_text(json.dumps(pace), encoding="utf-8")
        return cls(folder)

    def hosts(self, cluster: str) -> list[str]:
        """The names of a cluster's machines."""
        return sorted(path.name for path in (self.folder / cluster).iterdir())

    def machine(self, host: str) -> Machine:
        """The machine of a name."""
        pace = json.loads((self.folder / "pace.json").read_text(encoding="utf-8"))
        (folder,) = self.folder.glob(f"*/{host}")
        return Machine(folder, **pace)

    def machines(self) -> list[Machine]:
        """All of them."""
        return [self.machine(path.name) for path in sorted(self.folder.glob("*/*/"))]
