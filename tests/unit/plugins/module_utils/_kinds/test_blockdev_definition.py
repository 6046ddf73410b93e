# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What QEMU tells of a block node, as blockdev-add takes it."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_definition import address
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_nodes import is_cut, layers

UNIX = {"type": "unix", "path": "/run/n.sock"}


def inet(host: str, port: str = "10809") -> dict[str, Any]:
    return {"type": "inet", "host": host, "port": port}


URLS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("file", "/a b?c.img", {"filename": "/a b?c.img"}),
    ("host_device", "/dev/vg/lv", {"filename": "/dev/vg/lv"}),
    ("null-co", "null-co://", {}),
    ("nbd", "nbd+unix:///e1?socket=/run/n.sock", {"server": UNIX, "export": "e1"}),
    ("nbd", "nbd+unix:///a/b?c?socket=/run/n.sock", {"server": UNIX, "export": "a/b?c"}),
    ("nbd", "nbd+unix:///?socket=/run/n.sock", {"server": UNIX, "export": ""}),
    ("nbd", "nbd+unix://?socket=/run/n.sock", {"server": UNIX, "export": ""}),
    ("nbd", "nbd://127.0.0.1:10809/e1", {"server": inet("127.0.0.1"), "export": "e1"}),
    ("nbd", "nbd://127.0.0.1:10809/a/b:c", {"server": inet("127.0.0.1"), "export": "a/b:c"}),
    ("nbd", "nbd://127.0.0.1:10809", {"server": inet("127.0.0.1"), "export": ""}),
    ("nbd", "nbd://::1:10809/e", {"server": inet("::1"), "export": "e"}),
    ("nbd", "nbd://[::1]:10809/e", {"server": inet("::1"), "export": "e"}),
    ("nbd", "nonsense", None),
    ("ssh", "ssh://me@host:22/a/b", {"user": "me", "server": {"host": "host", "port": "22"}, "path": "/a/b"}),
    ("ssh", "ssh://host:22/a", {"server": {"host": "host", "port": "22"}, "path": "/a"}),
    ("https", "https://host/a", {"url": "https://host/a"}),
    ("http", "https://host/a", None),
    ("vvfat", "fat:/a", None),
]


@pytest.mark.parametrize(("driver", "text", "options"), URLS)
def test_a_name_or_url_is_read_as_options_or_not_at_all(driver: str, text: str, options: dict[str, Any] | None) -> None:
    assert address(driver, text) == options


def test_a_text_that_is_cut_tells_nothing() -> None:
    text = 'json:{"driver": "qcow2", "file": {"driver": "file", "filename": "/' + "x" * 5000
    assert is_cut(text[:4095]) and layers(text[:4095]) == {}
    assert not is_cut('json:{"driver": "raw", "offset": 512}')
    assert layers('json:{"driver": "raw", "server.path": "/s"}') == {"driver": "raw", "server": {"path": "/s"}}
    assert layers("/a.img") == {"filename": "/a.img"}
    assert layers("nbd://host:1/e") == {}
