# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a guest's agent that is not there yet."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import agent, errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline


def test_a_socket_full_of_questions_is_a_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU reads nothing while the guest has not opened its port: some 300 questions fill the socket."""
    monkeypatch.setattr(agent, "_ASK_EVERY", 0.0001)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "qga"))
        server.listen(1)
        with pytest.raises(errors.CommandTimeout):
            agent.wait_for_agent(str(tmp_path / "qga"), Deadline(3.0))
