"""Keeps one chroot host powered: `python power.py ROOT BOOT_SECONDS`.

It is what firmware and init are to a real machine. It boots the host (a new boot id, an empty /run,
the services, sshd) and boots it again whenever its sshd ends, which is what the host's /sbin/reboot
brings about. It powers off on SIGTERM, and when its standard input is closed: that happens even if
the process that owns the fleet is killed with SIGKILL, so no host outlives its fleet.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

__all__ = ["kill_processes"]


def kill_processes(root: Path) -> None:
    """Kill every process whose root directory is `root` or inside of it.

    Args:
        root: An absolute folder. The machine's own root is refused.

    Raises:
        RuntimeError: Something is still alive after 10 seconds.
    """
    inside = os.path.realpath(root)
    if inside == "/":
        raise ValueError("'root' must be a chroot, not / (got '/')")
    deadline = time.monotonic() + 10
    while found := [pid for pid in _pids() if _is_inside(_root_of(pid), inside)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of {inside} do not end: {found}")
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _root_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/root")
    except OSError:  # it has just ended, or is a zombie that its parent will collect
        return ""


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")


def _boot(root: Path) -> subprocess.Popen[bytes]:
    run = root / "run"
    shutil.rmtree(run)
    for folder in ("run", "run/lock", "run/sshd"):
        (root / folder).mkdir()
    (run / "boot_id").write_text(f"{uuid.uuid4()}\n")
    for script in sorted((root / "etc/rc2.d").glob("S*")):
        subprocess.run(
            ["chroot", root, f"/etc/rc2.d/{script.name}", "start"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )
    return subprocess.Popen(
        ["chroot", root, "/usr/sbin/sshd", "-D", "-E", "/var/log/sshd.log"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _power(root: Path, boot_seconds: float) -> None:
    def power_off(*_: object) -> None:
        raise SystemExit(0)

    def power_off_with_the_owner() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, power_off)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    threading.Thread(target=power_off_with_the_owner, daemon=True).start()
    try:
        while True:
            sshd = _boot(root)
            sshd.wait()
            kill_processes(root)
            time.sleep(boot_seconds)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        kill_processes(root)


if __name__ == "__main__":
    _power(Path(sys.argv[1]), float(sys.argv[2]))
