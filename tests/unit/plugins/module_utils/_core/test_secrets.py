# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords in URLs are found wherever they stand, and nothing shows them."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.secrets import redact, url_passwords


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"file": {"url": "https://me:hunter2@host/image"}}, {"hunter2"}),
        ([["ssh://me:hunter2@host:22/image"]], {"hunter2"}),
        ('json:{"file": {"driver": "http", "url": "http://me:hunter2@host/image"}}', {"hunter2"}),
        ("http://me:hunter%402@host/image", {"hunter%402", "hunter@2"}),
        ("http://me@host:80/image", set()),
        ("http://host:80/a@b", set()),
        ("http://me:@host/image", set()),
        ("tcp:127.0.0.1:22", set()),
        (7, set()),
        (None, set()),
    ],
)
def test_passwords_in_urls(value: Any, found: set[str]) -> None:
    assert set(url_passwords(value)) == found
    assert not any(password in str(redact(value, [*found])) for password in found)
