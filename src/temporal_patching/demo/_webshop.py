"""The software that the demo's hosts run; ``_wheels.py`` packs it as ``webshop``.

``python -m webshop``, started in a host's directory, sells in the currency of ``shop.json`` and writes
its port to ``webshop.port``. On SIGTERM it takes no new requests and ends when the open ones have ended.
It also ends when its standard input does, so it never outlives the demo.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Waits for open requests when it is closed."""

    daemon_threads = False


class Handler(BaseHTTPRequestHandler):
    """``GET /version``, ``POST /orders``, and ``GET /download``, which ends when the customer hangs up."""

    def do_GET(self) -> None:  # noqa: N802, RUF100 (the name is http.server's)
        """Says the version, or sends a file without end."""
        if self.path != "/download":
            self.answer({"version": version("webshop")})
            return
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b".")
                time.sleep(0.1)
        except OSError:
            self.close_connection = True

    def do_POST(self) -> None:  # noqa: N802, RUF100
        """Takes an order."""
        self.answer({"receipt": shop_currency()})

    def answer(self, content: dict[str, str]) -> None:
        """Sends JSON."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the log for what matters."""


def shop_currency() -> str:
    """What this shop sells in."""
    return str(json.loads(Path("shop.json").read_text(encoding="utf-8"))["currency"])


def end_with_the_demo() -> None:
    """Blocks until the demo is gone."""
    os.read(0, 1)  # not sys.stdin: its lock would crash an interpreter that ends meanwhile
    os._exit(0)


def main() -> None:
    """Serves until it is told to stop."""
    threading.Thread(target=end_with_the_demo, daemon=True).start()
    currency = shop_currency()
    known = Path(__file__).with_name("currencies.txt").read_text(encoding="utf-8").split()
    if currency not in known:
        sys.exit(f"webshop {version('webshop')} does not know the currency {currency!r}")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it waits until we ask for it
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    written = Path("webshop.port.new")
    written.write_text(str(server.server_port), encoding="utf-8")
    written.replace("webshop.port")
    signal.sigwait({signal.SIGTERM})
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
