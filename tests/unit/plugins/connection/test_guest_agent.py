# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection to a guest whose agent answers what it likes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.playbook.play_context import PlayContext

from ansible_collections.vmm.qemu.plugins.connection.guest_agent import Connection
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import guest
from support.fake_agent import FakeAgent

LOOKED = {"guest-exec": {"pid": 1}, "guest-exec-status": {"exited": True, "exitcode": 0}, "guest-file-open": 5}


def connected(agent: FakeAgent) -> Connection:
    connection = Connection(PlayContext(), os.devnull)
    options = {"socket": agent.path, "connect_timeout": 60.0, "answer_timeout": 60.0, "hypervisor": None}
    connection.get_option = lambda option, **_more: options[option]
    return connection


@pytest.mark.parametrize(
    ("read", "refused"),
    [({"count": 1, "buf-b64": "eA==", "eof": "x"}, {}), ({}, {"guest-file-open": "no"})],
    ids=["half", "not at all"],
)
def test_a_file_that_was_fetched_before_stays(read: Any, refused: dict[str, str], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("of yesterday")
    answers = {**LOOKED, "guest-file-read": read}
    fake = FakeAgent(tmp_path / "agent", refused, answers=answers)
    with fake as agent, pytest.raises(AnsibleError, match="fetch /etc/shadow"):
        connected(agent).fetch_file("/etc/shadow", str(kept))
    assert kept.read_text() == "of yesterday" and {path.name for path in tmp_path.iterdir()} == {"agent", "kept"}


def test_a_file_that_is_fetched_is_replaced(tmp_path: Path) -> None:
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_text("of yesterday")
    kept.chmod(0o640)
    link.symlink_to(kept)
    answers = {**LOOKED, "guest-file-read": {"count": 1, "buf-b64": "eA==", "eof": True}}
    with FakeAgent(tmp_path / "agent", answers=answers) as agent:
        connected(agent).fetch_file("/etc/shadow", str(link))
    assert (kept.read_text(), kept.stat().st_mode & 0o777, link.is_symlink()) == ("x", 0o640, True)


def test_a_line_that_is_not_text_goes_another_way() -> None:
    """The agent takes text in UTF-8 alone, and a file's name may be of any bytes."""
    assert guest.shell("cat é", b"in") == (["/bin/sh", "-c", "cat é"], b"in")
    (shell, option, reads), stdin = guest.shell("cat \udcff", b"in")
    assert (shell, option, stdin) == ("/bin/sh", "-c", b"cat \xffin") and "head -c 5;" in reads
