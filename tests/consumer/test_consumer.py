"""A project of somebody else's: it installs the wheel, type checks, and patches its own hosts."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).with_name("project")
PACKAGES = ("openssl", "nginx", "linux-image")

# The wheel is built and installed from the package index when the first test asks for it.
pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command to its end and return what it printed; `path` is put before PATH."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": f"{path or ''}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def consumer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's folder, with an environment in `venv` that has the wheel and nothing more."""
    folder = tmp_path_factory.mktemp("consumer")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    run(folder / "venv/bin/python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    for file in PROJECT.glob("*.py"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def developer(wheel: Path, consumer: Path) -> Path:
    """The project's folder, with what its developers need: the extra for tests, too."""
    python = consumer / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[testing]", cwd=consumer)
    return consumer


def make_hosts(consumer: Path, cluster: str, names: list[str]) -> list[Path]:
    """Make folders that stand for hosts: version 1 installed, version 2 to be had."""
    hosts = [consumer / "fleet" / cluster / name for name in names]
    for host in hosts:
        host.mkdir(parents=True)
        for package in PACKAGES:
            (host / package).write_text("1\n")
            (host / f"{package}.new").write_text("2\n")
    return hosts


@asynccontextmanager
async def worker(consumer: Path, address: str, task_queue: str) -> AsyncIterator[None]:
    """The project's worker, in a process of its own; it must end by itself when told to."""
    log = consumer / f"{task_queue}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            consumer / "venv/bin/python", "worker.py", address, task_queue,
            cwd=consumer, stderr=output,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            first = await asyncio.wait_for(process.stdout.readline(), 30)
            assert first == b"working\n", log.read_text()
            yield
        finally:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.communicate(), 30)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def operate(consumer: Path, address: str, task_queue: str, *clusters: str) -> dict[str, Any]:
    """Run the project's operator and return what it reports."""
    process = await asyncio.create_subprocess_exec(
        consumer / "venv/bin/python", "operate.py", address, task_queue, task_queue, *clusters,
        cwd=consumer, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        output, errors = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    assert b"Traceback" not in errors, errors.decode()
    report: dict[str, Any] = json.loads(output)
    return report


def test_wheel(wheel: Path) -> None:
    """The wheel holds the library with its `py.typed` and the license, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "temporal_patching/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"temporal_patching"}
    assert not [name for name in names if name.endswith((".pyc", ".md"))]


def test_installed_alone(consumer: Path) -> None:
    """Each room can be imported with nothing installed but the library's own dependencies."""
    code = "import temporal_patching.{0}; print(temporal_patching.__version__)"
    for room in ("activity", "client", "exceptions", "models", "policy", "worker", "workflow"):
        run(consumer / "venv/bin/python", "-W", "error", "-c", code.format(room), cwd=consumer)


def test_without_pytest(consumer: Path) -> None:
    """A rehearsal needs no pytest, and its fixtures say what to install."""
    code = (
        "import importlib.util as found\n"
        "assert found.find_spec('pytest') is None\n"
        "from temporal_patching.testing import rehearse\n"
        "try:\n"
        "    import temporal_patching.testing.pytest_plugin\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    said = run(consumer / "venv/bin/python", "-W", "error", "-c", code, cwd=consumer)
    assert "pip install 'temporal-patching[testing]'" in said


def test_release(developer: Path) -> None:
    """The project's own tests rehearse its rollout, with nothing installed but the extra."""
    said = run(
        developer / "venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "test_release.py", cwd=developer,
    )  # fmt: skip
    assert "3 passed" in said


def test_mypy(developer: Path) -> None:
    """The project passes `mypy --strict`."""
    consumer = developer
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not in this environment")
    python = consumer / "venv/bin/python"
    run(
        sys.executable, "-m", "mypy", "--strict", "--python-executable", python,
        *sorted(file.name for file in PROJECT.glob("*.py")), cwd=consumer,
    )  # fmt: skip


def test_pyright(developer: Path) -> None:
    """The project passes `pyright` in strict mode."""
    consumer = developer
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not in this environment")
    (consumer / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "exclude": ["venv"]})
    )
    run(
        sys.executable, "-m", "pyright", "--pythonpath", consumer / "venv/bin/python",
        cwd=consumer, path=Path(sys.executable).parent,
    )  # fmt: skip


@pytest.fixture
def fleet(consumer: Path) -> Iterator[Path]:
    """The folder of the project's hosts, empty again for the next test."""
    yield consumer / "fleet"
    shutil.rmtree(consumer / "fleet")
    (consumer / "notices").unlink(missing_ok=True)


async def test_rollout(
    consumer: Path, fleet: Path, dev: WorkflowEnvironment, task_queue: str
) -> None:
    """The project patches each package of each host of two clusters, and its own step ran."""
    hosts = make_hosts(consumer, "eu-1", [f"eu-{index}" for index in range(12)])
    hosts += make_hosts(consumer, "us-1", ["us-0", "us-1", "us-2"])
    address = dev.client.service_client.config.target_host
    async with worker(consumer, address, task_queue):
        report = await operate(consumer, address, task_queue, "eu-1", "us-1")
    assert report == {
        "outcome": "PATCHED",
        "patched": 15,
        "failed": 0,
        "hosts": [],
        "left_out_of_service": [],
        "released": ["1.2 in eu", "1.2 in us", "1.2 in ap"],
    }
    for host in hosts:
        assert {(host / package).read_text() for package in PACKAGES} == {"2\n"}
        assert (host / "initramfs").read_text() == "2\n"
        assert not (host / "maintenance").exists()
    assert "finished: " in (consumer / "notices").read_text()


async def test_failed_rollout(
    consumer: Path, fleet: Path, dev: WorkflowEnvironment, task_queue: str
) -> None:
    """A pilot whose update fails is held and named, and no other host is touched."""
    pilot, *others = make_hosts(consumer, "us-1", ["us-0", "us-1", "us-2"])
    (pilot / "nginx.new").unlink()
    address = dev.client.service_client.config.target_host
    async with worker(consumer, address, task_queue):
        report = await operate(consumer, address, task_queue, "us-1")
    assert report["outcome"] == "STOPPED"
    assert (report["patched"], report["failed"]) == (0, 1)
    assert report["left_out_of_service"] == ["us-0"]
    assert report["hosts"][0][:3] == ["us-1", "us-0", "FAILED"]
    assert "cp exited with 1" in report["hosts"][0][3]
    assert (pilot / "maintenance").exists()
    for host in others:
        assert (host / "nginx").read_text() == "1\n"
        assert not (host / "maintenance").exists()
