# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which arguments of which commands are never shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._operations.command import redacted


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("object-add", {"qom-type": "secret", "id": "keep", "data": "hush"}),
        ("object-add", {"qom-type": "secret", "id": "keep", "props": {"data": "hush"}}),
        ("set_password", {"protocol": "keep", "password": "hush"}),
        ("change-vnc-password", {"password": "hush"}),
        ("change", {"device": "vnc", "target": "password", "arg": "hush"}),
        ("qom-set", {"path": "/objects/keep", "property": "data", "value": "hush"}),
        ("human-monitor-command", {"command-line": "set_password vnc hush"}),
        ("human-monitor-command", {"command-line": "object_add secret,id=x,data=hush"}),
        ("transaction", {"actions": [{"type": "keep", "data": {"password": "hush"}}]}),
    ],
)
def test_secrets(name: str, arguments: dict[str, Any]) -> None:
    shown = json.dumps(redacted(name, arguments))
    assert "hush" not in shown
    assert "VALUE_SPECIFIED" in shown
    assert ("keep" in shown) == ("keep" in json.dumps(arguments))
    assert "hush" in json.dumps(arguments)  # what is sent is another matter


def test_the_rest_is_shown() -> None:
    for name, arguments in (
        ("object-add", {"qom-type": "filter-dump", "id": "f", "data": "seen"}),
        ("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}),
        ("qom-set", {"path": "/x", "property": "poll-max-ns", "value": 3}),
        ("human-monitor-command", {"command-line": "info qtree"}),
    ):
        assert redacted(name, arguments) == arguments
