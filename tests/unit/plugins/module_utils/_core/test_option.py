# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts that neither QEMU nor the system takes."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, check_texts
from support.modules import ModuleFailed, run_module

OPTIONS = {
    "typed": Option("list", nul=True),
    "name": Option("str"),
    "disks": Option("list"),
    "content": Option("raw", hidden_whole=True),
}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"name": "a\0b"}, "name: it has a NUL character"),
        ({"name": "a\udc80"}, "name: it is not text in UTF-8"),
        ({"disks": [{"id": "d"}, {"filename": "/a\0"}]}, r"disks\[1\].filename: it has a NUL"),
        ({"disks": [{"a\0": 1}]}, r"disks\[0\]: it has a NUL"),
        ({"disks": [{"a": ["\ud800"]}]}, r"disks\[0\].a\[0\]: it is not text"),
        ({"typed": ["\0", "\ud800"]}, r"typed\[1\]: it is not text"),
    ],
)
def test_what_is_refused(params: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        check_texts(params, OPTIONS)
    str(refused.value).encode()


def test_what_is_taken() -> None:
    """All other text, and whatever is in a file."""
    check_texts(
        {
            "name": "\x01 ü \U0001f600\n",
            "disks": [1, None, True, 0.5, {1: "x"}],
            "content": "a\0\udc80",
            "typed": ["\0"],
        },
        OPTIONS,
    )


@pytest.mark.parametrize("module", ["qemu_disk", "qemu_chardev", "qemu_instance", "qemu_snapshot", "qemu_bitmap"])
@pytest.mark.parametrize("text", ["/tmp/a\0b", "/tmp/a\udc80"])
def test_each_module_says_so(module: str, text: str) -> None:
    given: dict[str, dict[str, Any]] = {
        "qemu_disk": {"id": "d", "filename": text},
        "qemu_chardev": {"id": "c", "type": "file", "path": text},
        "qemu_instance": {"name": "n", "pidfile": text},
        "qemu_snapshot": {"name": text},
        "qemu_bitmap": {"node": "n", "name": text},
    }
    with pytest.raises(ModuleFailed, match=r"it has a NUL character|it is not text in UTF-8") as failed:
        run_module("/nonexistent", module, **given[module])
    assert failed.value.result["commands"] == []
