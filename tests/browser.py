"""Chromium without a window, for the tests that look at pages as readers do: `pytest -m browser`."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A test does not play, sync or update, and calls nobody.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Seen:
    """What a page did: its complaints, what it asked for beyond its own folder, and pixels beyond its width."""

    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    overflow: int = 0


@dataclass
class Served(Seen):
    """A page that was served: what it asked of other servers, its line of status, and what was asked of it."""

    elsewhere: list[str] = field(default_factory=list)
    status: str = ""
    found: Any = None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """`python -m http.server` without a word for each request."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder of plain files on this machine."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Browser:
    """Opens pages one after the other."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(
        self, file: Path, width: int, scheme: str = "light", picture: Path | None = None
    ) -> Seen:
        """Load a file at this width; a picture of the whole page where one is wanted."""
        seen = Seen()
        context = self.driver.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme
        )
        page = context.new_page()
        page.on("console", lambda said: seen.complaints.append(said.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("requestfailed", lambda request: seen.complaints.append(request.url))
        page.on("request", lambda request: seen.asked.append(request.url))
        page.goto(file.as_uri(), wait_until="load")
        seen.overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        if picture is not None:
            page.screenshot(path=str(picture), full_page=True)
        context.close()
        seen.asked = [
            url for url in seen.asked if not url.startswith(("file:", "data:"))
        ]
        return seen

    def visit(
        self,
        address: str,
        width: int,
        scheme: str,
        question: str,
        picture: Path | None = None,
    ) -> Served:
        """Open a served page, wait until its body says `ready` or `failed`, and ask it a question in JavaScript."""
        seen = Served()
        context = self.driver.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme
        )
        page = context.new_page()
        page.on("console", lambda said: seen.complaints.append(said.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("requestfailed", lambda request: seen.complaints.append(request.url))
        page.on("request", lambda request: seen.asked.append(request.url))
        page.goto(address, wait_until="load")
        page.wait_for_selector("body[data-state=ready], body[data-state=failed]", timeout=120_000)  # fmt: skip
        seen.overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        seen.status = page.inner_text("[role=status]")
        seen.found = page.evaluate(question)
        if picture is not None:
            page.screenshot(path=str(picture), full_page=True)
        context.close()
        own = (address, "data:", "blob:")
        seen.elsewhere = [url for url in seen.asked if not url.startswith(own)]
        return seen


@contextmanager
def chromium() -> Iterator[Browser]:
    """A fresh one, without a profile; an AssertionError says how to get it."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "there is no chromium: apt-get install chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        driver = tools.chromium.launch(
            executable_path=path, headless=True, args=OPTIONS
        )
        yield Browser(driver)
        driver.close()
