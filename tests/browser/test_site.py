# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation site that scripts/docs has built: its links, its search, and how it looks on a desk and on a phone.

Pictures of it are made where SITE_SCREENSHOTS names a directory for them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from playwright.sync_api import Playwright, expect

from support.browser import Browser, Opened
from support.collection import REPO
from support.vm import BED

SITE = BED / "docs" / "html"
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Found(HTMLParser):
    """What a page names: its own anchors, where its links lead, and what it fetches."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        else:
            self.fetched += [given[name] for name in ("src", "href") if name in given]


READ = {page: Found((SITE / page).read_text()) for page in PAGES}


def test_all_that_there_is_has_a_page() -> None:
    names = {path.name for path in (SITE / "reference").glob("*.html")}
    kinds = {"modules": "module", "connection": "connection", "filter": "filter", "inventory": "inventory"}
    wanted = {
        f"{path.stem}_{kind}.html" for where, kind in kinds.items() for path in REPO.glob(f"plugins/{where}/*.py")
    }
    wanted |= {f"{path.name}_role.html" for path in REPO.glob("roles/*")}
    assert wanted and wanted <= names
    guides = {path.stem for path in (SITE / "reference/docsite").glob("*.html")}
    assert guides == {path.stem for path in REPO.glob("docs/docsite/rst/*.rst")}
    # and the first page leads to each of them
    first = {urldefrag(urljoin("index.html", link)).url for link in READ["index.html"].links}
    assert {f"reference/{name}" for name in wanted} | {f"reference/docsite/{name}.html" for name in guides} <= first


def test_each_link_leads_somewhere() -> None:
    dead = []
    for page, found in READ.items():
        for link in found.links + found.fetched:
            if urlsplit(link).scheme:
                continue
            target = urlsplit(urljoin(page, link))
            path, anchor = unquote(target.path), unquote(target.fragment)
            if not (SITE / path).is_file() or (anchor and anchor not in READ[path].anchors):
                dead.append(f"{page}: {link}")
    assert dead == []


def test_nothing_is_fetched_from_elsewhere() -> None:
    assert [(page, link) for page, found in READ.items() for link in found.fetched if urlsplit(link).netloc] == []


class Quiet(SimpleHTTPRequestHandler):
    """A web server that says nothing."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the site is served: a search fetches the pages that it has found, which a file may not."""
    assert PAGES, "there is no site: run scripts/docs"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["desk", "phone"])
def size(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def browser(playwright: Playwright, size: str) -> Iterator[Browser]:
    started = Browser(playwright, viewport={"desk": DESK, "phone": PHONE}[size])
    yield started
    started.close()


def picture(opened: Opened, name: str) -> None:
    directory = os.environ.get("SITE_SCREENSHOTS")
    if directory:
        opened.page.screenshot(path=Path(directory, f"{name}.png"), scale="css")


def test_no_page_complains_or_is_wider_than_the_screen(browser: Browser, size: str, address: str) -> None:
    wide = []
    opened = Opened(browser.context, address)
    for page in PAGES:
        opened.page.goto(f"{address}/{page}")
        if opened.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(page)
        picture(opened, f"{size}-{page.replace('/', '-')}")
    assert (wide, opened.said) == ([], [])
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    opened.page.goto(address)
    assert opened.page.locator("article img").count() == 2 and opened.page.evaluate(broken) == 0


def test_the_search_finds_a_module(browser: Browser, size: str, address: str) -> None:
    opened = Opened(browser.context, address)
    if size == "phone":
        opened.page.locator("header label[for=__navigation]").click()
    search = opened.page.get_by_role("searchbox").or_(opened.page.get_by_placeholder("Search"))
    search.fill("qemu_disk")
    search.press("Enter")
    results = opened.page.locator("#search-results li a")
    expect(results.first).to_have_attribute("href", "reference/qemu_disk_module.html")
    picture(opened, f"{size}-found")
    results.first.click()
    expect(opened.page.locator("h1")).to_contain_text("qemu_disk")
    assert opened.said == []
