# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""The report of a fleet: a page of HTML that needs nothing else, and is safe to open whatever its machines say.

What they say is in one block of JSON, which no browser takes for HTML. The page's script writes it as text. By the page's
policy a browser runs that script alone, applies that style alone, and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from datetime import datetime
from typing import Any, Dict, List

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page needs JavaScript, which it brings itself.</noscript>
<script type="application/json" id="report">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def page(rows: List[Dict[str, Any]], title: str, now: datetime, style: str, script: str) -> str:
    """Return the page. ``rows``: what is shown of each machine; ``style`` and ``script`` are the page's own."""
    parts = [
        "default-src 'none'",
        f"script-src '{_digest(script)}'",
        f"style-src '{_digest(style)}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    data = {"title": title, "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "machines": rows}
    return PAGE.format(
        policy=html.escape("; ".join(parts)),
        title=html.escape(title),
        style=style,
        script=script,
        data=as_data(data),
    )


def as_data(value: Any) -> str:
    """Return JSON that ends no element it is in, and begins none."""
    written = json.dumps(value, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(content: str) -> str:
    """Return a hash as a Content-Security-Policy has it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
