# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report's page in Chromium: sorted, searched, in the dark, on paper, and with machines that would like to run a script.

The pictures of the documentation are made here, where REPORT_SCREENSHOTS names the directory for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Playwright, expect

from ansible_collections.vmm.qemu.plugins.plugin_utils._report_fleet import rows
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_page import page
from support import report
from support.browser import Browser, Opened

HOSTILE = "</script><script>pwned=1</script><img src=x onerror=pwned=1>{{ 7 * 7 }}"


class Report(Opened):
    """A report that is open."""

    def column(self, number: int) -> list[str]:
        """What the rows that are to be seen have in a column."""
        cells = self.page.locator(f".machines > tbody > tr.vm:visible > td:nth-child({number + 1})")
        return [text.strip() for text in cells.all_inner_texts()]

    def names(self) -> list[str]:
        found: list[str] = self.page.locator(".machines > tbody > tr.vm:visible .open").all_inner_texts()
        return found

    def sort(self, title: str) -> str | None:
        head = self.page.locator(".machines > thead th", has_text=title)
        head.get_by_role("button").click()
        found: str | None = head.get_attribute("aria-sort")
        return found

    def open(self, name: str) -> Any:
        self.page.get_by_role("button", name=name, exact=True).click()
        return self.page.locator("tr.more:visible")

    def picture(self, name: str) -> None:
        """A screenshot for the documentation, of few colours: it is small then."""
        directory = os.environ.get("REPORT_SCREENSHOTS")
        if directory:
            self.page.screenshot(path=f"{directory}/{name}.png", scale="css")


class Shown(Browser):
    """A browser for reports."""

    def __init__(self, playwright: Playwright, home: Path, **how: Any) -> None:
        super().__init__(playwright, **how)
        self._home = home

    def show(self, text: str) -> Report:
        path = self._home / "report.html"
        path.write_text(text)
        return Report(self.context, path.as_uri())


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def browser(playwright: Playwright, tmp_path: Path, scheme: str) -> Iterator[Shown]:
    started = Shown(playwright, tmp_path, color_scheme=scheme)
    yield started
    started.close()


def fleet(machines: int) -> str:
    askers, hosts = report.fleet(machines)
    return page(rows(askers, hosts, report.NOW), "Machines of example.com", report.NOW, **report.own_files())


def test_a_fleet(browser: Shown, scheme: str) -> None:
    opened = browser.show(fleet(200))
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}[scheme]
    assert opened.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0  # all columns are to be seen
    names = opened.names()
    assert len(names) == 200 and names[:3] == ["build1", "build2", "build3"] and names[9] == "build10"

    # sorted: numbers from the largest on, then the other way; what is not known comes last both times
    assert opened.sort("CPUs") == "descending"
    cpus = [text.split()[0] for text in opened.column(3) if text]
    assert cpus == sorted(cpus, key=int, reverse=True) and set(opened.column(3)[-9:]) == {""}
    assert opened.sort("CPUs") == "ascending"
    assert opened.column(3)[0].startswith("1") and opened.column(3)[-1] == ""
    assert opened.sort("Backup") == "descending" and opened.column(8)[0] == "none"
    assert opened.sort("Hypervisor") == "ascending"
    assert opened.column(1) == sorted(opened.column(1)) and opened.names()[0] == "build2"

    # found, by the name and by what is deep inside
    search = opened.page.get_by_role("searchbox")
    search.fill("WEB1 hv1")
    assert set(opened.names()) == {"web1", "web13", "web17"}
    search.fill("52:54:00:00:07:00")
    assert opened.names() == ["cache2"]
    search.fill("no machine is like this")
    expect(opened.page.locator(".nothing")).to_be_visible()
    search.fill("")

    # chosen by state, and by what needs attention
    opened.page.get_by_role("button", name="io-error").click()
    assert set(opened.column(2)) == {"io-error"} and len(opened.names()) == 3
    opened.page.get_by_role("button", name="io-error").click()
    opened.page.get_by_role("button", name="migrating").click()
    assert all("migration 62 %" in text for text in opened.column(7)) and opened.names()
    opened.page.get_by_role("button", name="migrating").click()
    opened.page.get_by_role("button", name="hv2.example.com").click()
    assert set(opened.column(1)) == {"hv2.example.com"}
    opened.page.get_by_role("button", name="hv2.example.com").click()
    assert len(opened.names()) == 200

    # opened: what is in it, and the picture; it stays with its machine
    opened.sort("Machine")
    opened.page.evaluate("scrollTo(0, 0)")
    more = opened.open("build2")
    expect(more).to_contain_text("200 MiB/s, 2000 iops")
    assert more.locator("svg .device .name").all_text_contents().count("disk1") == 1
    assert more.locator("svg .free").count() == 1
    opened.picture(f"report-{scheme}")
    opened.sort("QEMU")
    assert opened.page.locator("tr.vm:has(+ tr.more:visible) .open").all_inner_texts() == ["build2"]
    opened.page.get_by_role("button", name="Close all").click()
    expect(more).to_have_count(0)
    assert opened.said == [] and opened.requests == [opened.address]


def test_what_differs_from_a_document(browser: Shown) -> None:
    opened = browser.show(fleet(200))
    # the most first; a restart counts less than any difference; what is not known, or not kept, comes last both times
    assert opened.sort("Document") == "descending"
    shown = [" ".join(text.split()) for text in opened.column(9)]
    places = [shown.index(text) for text in ("3 differences", "needs a restart", "nothing differs")]
    assert places == sorted(places) and shown[0].startswith("3 differences") and opened.names()[0] == "web25"
    unknown = {"could not be told", "not kept by qemu_vm", ""}
    last = [text for text in shown if text in unknown]
    assert set(last) == unknown and shown[-len(last) :] == last
    assert opened.sort("Document") == "ascending"
    shown = [" ".join(text.split()) for text in opened.column(9)]
    assert shown[0] == "nothing differs" and shown[-len(last) :] == last
    # chosen and found
    opened.page.get_by_role("button", name="needs a restart").first.click()
    assert opened.names() and all("needs a restart" in text for text in opened.column(9))
    search = opened.page.get_by_role("searchbox")
    search.fill("limits.iops")
    assert opened.names() == ["web25"]
    more = opened.open("web25")
    expect(more).to_contain_text("Differs from its document")
    rows = more.locator("section", has_text="Differs from its document").locator("tbody tr")
    cells = [[cell.strip() for cell in row.locator("td").all_inner_texts()] for row in rows.all()]
    assert cells == [
        ["command line", "", "-m size=4G", "-m size=2G"],
        ["command line", "", "-vnc unix:/run/vnc", ""],
        ["disk disk1", "limits.iops", "2000", "0"],
        ["disk disk1", "limits.bps", "209715200", "0"],
        ["nic nic1", "", "there", "not there"],
    ]
    opened.page.get_by_role("button", name="needs a restart").first.click()
    for words, kind in (
        ("not kept by qemu_vm", "not kept by qemu_vm"),
        ("permission denied vm.json", "could not be told"),
    ):
        search.fill(words)
        assert set(opened.column(9)) == {kind}
    assert opened.said == [] and opened.requests == [opened.address]


def test_on_paper(browser: Shown, tmp_path: Path) -> None:
    """In black on white whatever the screen has, without what is to be clicked, and all of what is open."""
    opened = browser.show(fleet(24))
    opened.open("web1")
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    expect(opened.page.locator("nav")).to_be_hidden()
    expect(opened.page.locator("tr.more svg")).to_be_visible()
    opened.page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n") > 1
    assert opened.said == []


def test_machines_that_would_run_a_script(browser: Shown) -> None:
    vm = report.machine(1)
    vm.update(name=HOSTILE, devices={HOSTILE: {"driver": HOSTILE, "bus": "pcie.0", "mac": HOSTILE}})
    vm["document"] = {
        "differences": [
            {"action": "change", "kind": HOSTILE, "id": HOSTILE, "changes": {HOSTILE: {"before": HOSTILE}}}
        ],
        "restart_required": True,
        "arguments": {"before": [HOSTILE], "after": [HOSTILE]},
        "reason": HOSTILE,
    }
    vm["images"] = {HOSTILE: {"size": 1, "used": 1, "writable": True, "files": [HOSTILE]}}
    where = {"qemu_hypervisor": HOSTILE, "qemu_socket": HOSTILE, "qemu_status": HOSTILE}
    told = {"machines": {HOSTILE: {"vm": vm}, "gone": {"failed": True, "msg": HOSTILE}}}
    hosts: dict[str, dict[str, Any]] = {
        HOSTILE: {**where, "__report_names": [HOSTILE, "gone"], "__report_told": told},
        "gone": where,
    }
    opened = browser.show(page(rows([HOSTILE], hosts, report.NOW), HOSTILE, report.NOW, **report.own_files()))
    opened.page.get_by_role("button", name="Open all").click()
    assert opened.page.title() == HOSTILE and opened.page.locator("h1").inner_text() == HOSTILE
    assert opened.page.locator("tr.more").count() == 2 and opened.page.locator("img").count() == 0
    assert HOSTILE[:20] in {text[:20] for text in opened.page.locator("tr.more svg .name").all_text_contents()}
    assert opened.page.evaluate("typeof pwned") == "undefined"
    assert opened.said == [] and opened.requests == [opened.address]
    # even where one came in, it would neither run nor fetch anything
    opened.page.evaluate(
        "html => document.body.append(document.createRange().createContextualFragment(html))", HOSTILE[9:]
    )
    opened.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert opened.page.evaluate("typeof pwned") == "undefined" and opened.requests == [opened.address]
    assert any("Content Security Policy" in text for text in opened.said)
