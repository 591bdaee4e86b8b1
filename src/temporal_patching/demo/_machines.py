"""The demo's "hosts": a directory each, with a Python environment, a package and a service of its own.

Nothing here knows Temporal. It stands for what SSH, ``apt`` and ``systemctl`` are on real machines.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import venv
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import attrs

from ..workflow import gather
from ._wheels import PACKAGE, build_wheels

CURRENCIES = {"us-4": "CAD"}
"""One shop is not like the others: that is how releases break."""

CLUSTERS: Mapping[str, tuple[str, ...]] = {
    "eu": tuple(f"eu-{number}" for number in range(1, 5)),
    "us": tuple(f"us-{number}" for number in range(1, 9)),
}

REPLY_TIME = 5.0
"""Seconds that a service may take to answer."""


@attrs.frozen(kw_only=True)
class Seen:
    """What a host's directory and service say about it now.

    Attributes:
        version: The installed version, as the host's own Python reads it. Empty if there is none.
        serves: The version that its service answers with, or None if it does not answer.
        maintenance: Whether it is in maintenance, out of service.
    """

    version: str
    serves: str | None
    maintenance: bool


class Machine:
    """One host.

    Args:
        path: Its directory.
        packages: The folder with the wheels that it may install.
    """

    def __init__(self, path: Path, packages: Path) -> None:
        self.name = path.name
        self.path = path
        self.currency = CURRENCIES.get(path.name, "USD")
        self._port = path / "webshop.port"
        self._log = path / "webshop.log"
        self._maintenance = path / "maintenance"
        self._service: subprocess.Popen[bytes] | None = None
        self._draining: list[subprocess.Popen[bytes]] = []
        kept = {
            name: text
            for name, text in os.environ.items()
            # The user's own settings of pip and Python do not concern this host.
            if not name.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV", "__PYVENV"))
        }
        self._environment = {
            **kept,
            "PATH": f"{path / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_FIND_LINKS": packages.as_uri(),
            "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_COMPILE": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_INPUT": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            # A pip that is killed leaves its temporary folders behind: they go with the host's.
            "TMPDIR": str(path),
        }

    async def set_up(self, image: Path) -> None:
        """Makes the directory from an image and starts the service."""
        await asyncio.to_thread(shutil.copytree, image, self.path, symlinks=True)
        _write_pip(self.path)
        shop = {"currency": self.currency}
        (self.path / "shop.json").write_text(json.dumps(shop), encoding="utf-8")
        self.start()
        while True:
            if await self.serves() is not None or self.last_words is not None:
                return
            await asyncio.sleep(0.05)

    async def run(self, command: str) -> tuple[int, str]:
        """Runs a command on the host; when cancelled it is killed.

        Returns:
            Its exit code, and what it printed.
        """
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            cwd=self.path,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return cast("int", process.returncode), output.decode(errors="replace").strip()

    async def install(self, version: str) -> None:
        """Makes the directory from nothing, as an image for others.

        Raises:
            RuntimeError: pip failed; the message has its output.
        """
        venv.EnvBuilder(symlinks=True, with_pip=False).create(self.path)
        _write_pip(self.path)
        code, output = await self.run(f"pip install {PACKAGE}=={version}")
        if code:
            raise RuntimeError(f"pip install failed: {output}")

    async def version(self) -> str:
        """The installed version, read by a fresh Python of the host's own. Empty if there is none."""
        read = f"import importlib.metadata as m; print(m.version('{PACKAGE}'))"
        code, output = await self.run(shlex.join(["python", "-I", "-c", read]))
        return "" if code else output

    # Maintenance

    @property
    def maintenance(self) -> bool:
        """Whether it is out of service."""
        return self._maintenance.exists()

    @maintenance.setter
    def maintenance(self, wanted: bool) -> None:
        if wanted:
            self._maintenance.touch()
        else:
            self._maintenance.unlink(missing_ok=True)

    # Its service

    def start(self) -> bool:
        """Starts the service in the background. Returns False if it runs already."""
        if self._service is not None and not _has_ended(self._service):
            return False
        self._port.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._service = subprocess.Popen(
                [self.path / "bin" / "python", "-m", PACKAGE],
                cwd=self.path,
                env=self._environment,
                stdin=subprocess.PIPE,  # never written: the service ends when we do
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return True

    def stop(self) -> bool:
        """Lets the service take no new requests and end with its last one. False if it did not run."""
        service, self._service = self._service, None
        if service is None or _has_ended(service):
            return False
        self._port.unlink(missing_ok=True)
        service.terminate()
        self._draining.append(service)
        return True

    def drained(self) -> bool:
        """Whether every service that was stopped has ended."""
        self._draining = [each for each in self._draining if not _has_ended(each)]
        return not self._draining

    def kill(self) -> None:
        """Ends whatever of its services still runs, at once."""
        for each in (self._service, *self._draining):
            if each is not None:
                with each:  # which waits for its end
                    each.kill()

    @property
    def last_words(self) -> str | None:
        """The last line that an ended service wrote; None while it runs."""
        if self._service is not None and not _has_ended(self._service):
            return None
        said = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return said.splitlines()[-1] if said else "nothing"

    async def serves(self) -> str | None:
        """The version that its service answers with, or None if it does not answer."""
        answer = await asyncio.to_thread(self._ask, "GET", "/version")
        return None if answer is None else str(answer["version"])

    async def order(self) -> bool:
        """Whether an order gets a receipt in the shop's own currency."""
        answer = await asyncio.to_thread(self._ask, "POST", "/orders")
        return answer is not None and answer.get("receipt") == self.currency

    def _ask(self, method: str, path: str) -> dict[str, object] | None:
        try:
            port = int(self._port.read_text(encoding="utf-8"))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REPLY_TIME)
            try:
                connection.request(method, path)
                return cast("dict[str, object]", json.loads(connection.getresponse().read()))
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError):
            return None

    @asynccontextmanager
    async def busy_customer(self) -> AsyncGenerator[None, None]:
        """A customer whose download goes on until the end of the block."""
        port = int(self._port.read_text(encoding="utf-8"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET /download HTTP/1.0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            yield
        finally:
            writer.close()

    async def look(self) -> Seen:
        """What is really there now."""
        return Seen(
            version=await self.version(), serves=await self.serves(), maintenance=self.maintenance
        )


def _has_ended(service: subprocess.Popen[bytes]) -> bool:
    if service.poll() is None:
        return False
    if service.stdin is not None:
        service.stdin.close()
    return True


def _write_pip(path: Path) -> None:
    """Gives a host the command ``pip``: ours, run by its own Python as ``pip --python`` does."""
    spec = importlib.util.find_spec("pip")
    assert spec is not None  # asked before the demo starts
    assert spec.origin is not None
    command = shlex.join([str(path / "bin" / "python"), "-I", str(Path(spec.origin).parent)])
    pip = path / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    pip.chmod(0o755)


class Machines:
    """All hosts of the demo.

    Args:
        folder: Where everything is: ``hosts``, the ``image`` they are made from, the ``wheels``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "hosts"
        self._wheels = folder / "wheels"
        self._image = Machine(folder / "image", self._wheels)
        self._clusters = {
            cluster: tuple(Machine(self.folder / name, self._wheels) for name in names)
            for cluster, names in CLUSTERS.items()
        }
        self._by_name = {each.name: each for each in self}

    def __iter__(self) -> Iterator[Machine]:
        return (each for machines in self._clusters.values() for each in machines)

    def __getitem__(self, name: str) -> Machine:
        return self._by_name[name]

    def of(self, cluster: str) -> Iterable[Machine]:
        """The machines of one cluster."""
        return self._clusters[cluster]

    async def set_up(self, version: str) -> None:
        """Makes all hosts with this version and starts their services.

        Raises:
            OSError: A directory cannot be written.
            RuntimeError: pip failed; the message has its output.
        """
        build_wheels(self._wheels)
        await self._image.install(version)
        for each in self:
            await each.set_up(self._image.path)

    async def look(self) -> dict[str, Seen]:
        """What is really there now, by host name."""
        seen = await gather(*[each.look() for each in self], limit=4)
        return dict(zip(self._by_name, seen, strict=True))

    def kill(self) -> None:
        """Ends every service."""
        for each in self:
            each.kill()
