# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A QEMU that is too old gets one clear sentence, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from support.fakeqmp import FakeQMP, Peer
from support.modules import ModuleFailed, run_module


def qemu(major: int, minor: int) -> Any:
    def script(peer: Peer) -> None:
        peer.negotiate(version={"qemu": {"major": major, "minor": minor, "micro": 1}, "package": ""})
        peer.serve(query_status={"status": "running", "running": True}, query_balloon={"actual": 1 << 30})

    return script


@pytest.mark.parametrize("version", [(5, 1), (4, 2), (2, 12)])
@pytest.mark.parametrize("check", [True, False])
def test_older_than_the_oldest(version: tuple[int, int], check: bool) -> None:
    with FakeQMP(qemu(*version)) as fake:
        cases: list[tuple[str, dict[str, Any]]] = [("qemu_balloon", {"size": "1G"}), ("qemu_info", {})]
        for module, options in cases:
            with pytest.raises(ModuleFailed) as failed:
                run_module(fake.address, module, check=check, **options)
            said = f"this virtual machine runs on QEMU {version[0]}.{version[1]}.1: 5.2 is the oldest that is supported"
            assert failed.value.result["msg"] == said
            assert fake.peers[-1].received[1:] == []  # after qmp_capabilities


@pytest.mark.parametrize("version", [(5, 2), (10, 0)])
def test_new_enough(version: tuple[int, int]) -> None:
    with FakeQMP(qemu(*version)) as fake:
        assert not run_module(fake.address, "qemu_balloon", size="1G")["changed"]
