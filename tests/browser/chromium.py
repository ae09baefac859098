"""Chromium without a window, with one page: chromium.mjs."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.js_process import JsProcess, js_process
from tests.patience import PATIENCE_S

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Chromium:
    """Expressions are JavaScript, evaluated in the page that was opened last."""

    def __init__(self, process: JsProcess) -> None:
        """`process` runs chromium.mjs."""
        self._call = process.call

    async def open(self, url: str) -> None:
        """Open a page in place of the one before."""
        await self._call("open", url=url)

    async def wait(self, expression: str) -> None:
        """Wait until it is true. Raises `JsError` when patience is at its end."""
        await self._call("wait", expression=expression)

    async def evaluate(self, expression: str) -> Any:
        """Its value; a promise's value."""
        return await self._call("evaluate", expression=expression)

    async def click(self, selector: str, index: int = 0) -> None:
        """Click like a person on one of the elements that a selector finds, once there is one."""
        await self._call("click", selector=selector, index=index)

    async def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        await self._call("type", selector=selector, text=text)

    async def text(self, selector: str) -> str:
        """What a person reads there."""
        found = await self.evaluate(f"document.querySelector({selector!r}).innerText")
        assert isinstance(found, str)
        return found

    async def errors(self) -> list[str]:
        """What went wrong in the pages, as their consoles have it."""
        found = await self._call("errors")
        assert isinstance(found, list)
        return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    """A browser, until the context ends."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    assert program is not None, "no Chromium: run scripts/setup-node, as `make test` does"
    environment = {"CHROMIUM": program, "TIMEOUT_MS": str(int(PATIENCE_S * 900))}
    async with js_process(Path(__file__).with_name("chromium.mjs"), environment) as process:
        yield Chromium(process)
