"""Stands for your machines, and for what you have to reach them. Put your own in its place.

A host is a folder below `fleet`, and a package is a file in it that holds a version.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from temporal_patching.models import StepResult

FLEET = Path("fleet")
CLUSTERS = {"eu-1": ["eu-web-1", "eu-web-2", "eu-web-3"], "us-1": ["us-web-1", "us-web-2"]}
PACKAGES = ["openssl", "nginx", "linux-image"]


def build() -> None:
    """Makes the machines that are not there, with version 1 of each package."""
    for cluster, hosts in CLUSTERS.items():
        for host in hosts:
            folder = FLEET / cluster / host
            if not folder.exists():
                folder.mkdir(parents=True)
                for package in PACKAGES:
                    (folder / package).write_text("1\n")


def folder_of(host: str) -> Path:
    (folder,) = FLEET.glob(f"*/{host}")
    return folder


async def inventory(cluster: str) -> list[str]:
    return CLUSTERS[cluster]


async def install(host: str, package: str) -> None:
    await asyncio.sleep(0.2)  # the download
    done = await run(host, ["sh", "-c", 'echo 2 >"$1"', "install", package])
    if not done.ok:
        raise RuntimeError(f"{package}: {done.output.strip()}")


async def run(host: str, command: list[str]) -> StepResult:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder_of(host),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        message = f"{command[0]} exited with {process.returncode}"
        return StepResult(ok=False, message=message, output=output.decode())
    return StepResult(output=output.decode())


def publish(region: str, version: str) -> None:
    (FLEET / f"{region}.release").write_text(f"{version}\n")


class Pager:
    """Writes into a file what yours would send."""

    def send(self, text: str) -> None:
        with open(FLEET / "pager", "a") as file:
            file.write(f"{text}\n")


pager = Pager()
