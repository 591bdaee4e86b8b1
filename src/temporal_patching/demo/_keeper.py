"""Owns the demo's folder and Temporal server, and removes both when the demo is gone.

It is a process of its own, in a session of its own, and lives on a pipe to the demo: whatever ends the
demo (its own end, Ctrl-C, ``kill -9``) closes the pipe, and the keeper clears away. Told ``keep``, it
stays until it is terminated. It uses the standard library only and imports nothing of this package.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

Signals: TypeAlias = "queue.SimpleQueue[str]"

ATTEMPTS = 5
"""Another process may take a port between our choice and the server's start."""

PATIENCE = 30.0
"""Seconds that a server may take to start, and a folder to be removed."""


def main(binary: str) -> None:
    """Makes the folder, runs the server, waits, clears away; one JSON line for each of the first two."""
    # Not an event: a signal handler may put into a simple queue at any moment.
    gone: Signals = queue.SimpleQueue()

    def stop(number: int, _: object) -> None:
        gone.put(f"signal {number}")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_wait_for_demo, args=(gone,), daemon=True).start()
    try:
        folder = Path(tempfile.mkdtemp(prefix="temporal-patching-demo-"))
    except OSError as error:
        _say(problem=f"no temporary folder: {error}; set TMPDIR to one that you may write to")
        return
    try:
        _say(folder=str(folder))
        _serve(binary, folder / "temporal.log", gone)
    finally:
        _remove(folder)


def _say(**facts: str | int) -> None:
    with suppress(OSError):  # the demo is gone already: the end of its pipe says so, too
        print(json.dumps(facts), flush=True)


def _wait_for_demo(gone: Signals) -> None:
    # Not sys.stdin: its lock would crash an interpreter that ends meanwhile.
    if os.read(0, 100) != b"keep\n":
        gone.put("the demo has ended")


def _wait_for_server(server: subprocess.Popen[bytes], gone: Signals) -> None:
    server.wait()
    gone.put("the server has ended")


def _serve(binary: str, log: Path, gone: Signals) -> None:
    for _ in range(ATTEMPTS):
        port, ui_port = _free_ports()
        try:
            server = _start(binary, port, ui_port, log)
        except OSError as error:
            _say(problem=f"{binary} cannot be started: {error}")
            return
        try:
            if _answers(server, (port, ui_port), gone):
                _say(port=port, ui_port=ui_port)
                threading.Thread(target=_wait_for_server, args=(server, gone), daemon=True).start()
                gone.get()
                return
        finally:
            _end(server)
        if not gone.empty():
            return
    tail = log.read_text(encoding="utf-8", errors="replace")[-1000:].strip()
    _say(problem=f"the Temporal server does not start: {tail or 'it says nothing'}")


def _start(binary: str, port: int, ui_port: int, log: Path) -> subprocess.Popen[bytes]:
    arguments = ["--ip=127.0.0.1", f"--port={port}", f"--ui-port={ui_port}", "--log-level=error"]
    # Settings for another server do not concern this one.
    environment = {key: text for key, text in os.environ.items() if not key.startswith("TEMPORAL_")}
    with log.open("wb") as output:
        return subprocess.Popen(
            [binary, "server", "start-dev", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _answers(server: subprocess.Popen[bytes], ports: tuple[int, ...], gone: Signals) -> bool:
    """Whether the server listens on all its ports; False once it has ended or the demo has."""
    deadline = time.monotonic() + PATIENCE
    waiting = list(ports)
    while time.monotonic() < deadline and gone.empty() and server.poll() is None:
        if not waiting:
            return True
        try:
            socket.create_connection(("127.0.0.1", waiting[0]), timeout=1).close()
            waiting.pop(0)
        except OSError:
            time.sleep(0.05)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _remove(folder: Path) -> None:
    # A demo that was killed may have left a pip that still writes for a moment.
    deadline = time.monotonic() + PATIENCE
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1])
