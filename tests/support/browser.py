# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chromium without a screen, with a profile of its own, and what its pages say and get."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from playwright.sync_api import BrowserContext, Page, Playwright

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Opened:
    """A page that is open, with all that it has said and got."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.page: Page = context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        context.on("requestfinished", lambda request: self.requests.append(request.url))
        self.address = address
        self.page.goto(address)


class Browser:
    """Chromium that is started, until it is closed."""

    def __init__(self, playwright: Playwright, **how: Any) -> None:
        chromium = shutil.which("chromium")
        assert chromium, "there is no chromium: run scripts/test browser"
        how = {"viewport": {"width": 1280, "height": 900}, **how}
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-")
        self.context = playwright.chromium.launch_persistent_context(
            self._profile.name, executable_path=chromium, args=list(FLAGS), **how
        )

    def close(self) -> None:
        self.context.close()
        self._profile.cleanup()
