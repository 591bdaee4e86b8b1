"""Packs ``_webshop.py`` into wheels: three releases, one of them broken. No network, no build tool."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

PACKAGE = "webshop"

RELEASES = {
    "1.0": "EUR USD CAD",
    "2.0": "EUR USD",  # the mistake: nobody tested it with Canadian dollars
    "2.0.1": "EUR USD CAD",
}
"""Each release, and the currencies that it knows."""


def build_wheels(folder: Path) -> None:
    """Writes a wheel of each release into a folder."""
    folder.mkdir()
    program = Path(__file__).with_name("_webshop.py").read_text(encoding="utf-8")
    for version, currencies in RELEASES.items():
        info = f"{PACKAGE}-{version}.dist-info"
        files = {
            f"{PACKAGE}/__init__.py": '"""A shop."""\n',
            f"{PACKAGE}/__main__.py": program,
            f"{PACKAGE}/currencies.txt": currencies,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\n",
            f"{info}/WHEEL": (
                "Wheel-Version: 1.0\nGenerator: temporal-patching demo\n"
                "Root-Is-Purelib: true\nTag: py3-none-any\n"
            ),
        }
        record = "".join(_record(name, text.encode()) for name, text in files.items())
        files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
        with zipfile.ZipFile(folder / f"{PACKAGE}-{version}-py3-none-any.whl", "w") as wheel:
            for name, text in files.items():
                # A fixed date: before 1980 a zip file cannot hold the machine's own.
                wheel.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text.encode())


def _record(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"
