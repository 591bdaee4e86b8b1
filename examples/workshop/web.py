"""Photographs a page of the web UI with a headless Chromium, where there is one."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from .stage import PATIENCE

__all__ = ["browser", "photograph"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser() -> str | None:
    """Where the Chromium is, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


async def photograph(
    url: str,
    file: Path,
    *,
    shows: Sequence[str],
    press: str | None = None,
    part: str = "body",
    size: tuple[int, int] = (1280, 1000),
) -> bool:
    """Saves a picture of a page as a PNG file.

    Args:
        url: The page's address.
        file: Where the picture goes.
        shows: Texts. The picture is taken once the page has all of them.
        press: A switch to turn on, as soon as it is there: a CSS selector.
        part: Which part of the page: a CSS selector. Default: all of it.
        size: Width and height of the browser's window, in pixels.

    Returns:
        Whether the picture was taken. If not, it has said why.
    """
    path = browser()
    if path is None:
        print(f"  no picture: there is none of {', '.join(NAMES)}")
        return False
    try:
        picture = await asyncio.wait_for(_picture(path, url, shows, press, part, size), PATIENCE)
    except (asyncio.TimeoutError, asyncio.IncompleteReadError, RuntimeError) as error:
        print(f"  no picture of {url}: {type(error).__name__} {error}")
        return False
    await asyncio.to_thread(file.write_bytes, picture)
    return True


async def _picture(
    path: str, url: str, shows: Sequence[str], press: str | None, part: str, size: tuple[int, int]
) -> bytes:
    arguments = ", ".join(map(json.dumps, (list(shows), press, part)))
    async with _opened(path, size) as page:
        await page.call("Page.navigate", url=url)
        while True:
            box = await page.value(f"({READY})({arguments})")
            if box is not None:
                break
            await asyncio.sleep(0.1)
        answer = await page.call("Page.captureScreenshot", clip=box)
        return base64.b64decode(answer["data"])


READY = """(shows, press, part) => {
    const pressed = press && document.querySelector(press);
    if (pressed && !pressed.checked) pressed.click();
    if (!shows.every(text => document.body?.innerText.includes(text))) return null;
    const box = document.querySelector(part) ?? document.body;
    const {x, y, width, height} = box.getBoundingClientRect();
    return {x, y, width, height, scale: 1};
}"""
"""Turns the switch on; answers with the part's place once it shows what it should."""


@attrs.define
class _Page:
    """A page that is steered by Chromium's own protocol: JSON over a pipe, a zero byte after each."""

    process: asyncio.subprocess.Process
    session: str | None = None
    calls: int = 0

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """Calls a method, and waits for its answer."""
        assert self.process.stdin is not None  # they are pipes
        assert self.process.stdout is not None
        self.calls += 1
        sent: dict[str, Any] = {"id": self.calls, "method": method, "params": params}
        if self.session is not None:
            sent["sessionId"] = self.session
        self.process.stdin.write(json.dumps(sent).encode() + b"\0")
        while True:
            answer = json.loads((await self.process.stdout.readuntil(b"\0"))[:-1])
            if answer.get("id") == self.calls:  # else it is an event
                break
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def value(self, script: str) -> Any:
        """What a JavaScript expression is on the page."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")


@asynccontextmanager
async def _opened(path: str, size: tuple[int, int]) -> AsyncGenerator[_Page]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # It reads its orders from file 3 and answers on file 4.
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh"),
            *(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"),
            *(f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        page = _Page(process)
        try:
            target = await page.call("Target.createTarget", url="about:blank")
            session = await page.call(
                "Target.attachToTarget", targetId=target["targetId"], flatten=True
            )
            page.session = session["sessionId"]
            yield page
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
