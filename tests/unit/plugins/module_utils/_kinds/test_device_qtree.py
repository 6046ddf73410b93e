# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is taken of ``info qtree``, whatever is in the texts that it prints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import PERIPHERAL, VM
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.device_qtree import read_devices

TREE = """bus: main-system-bus
  type System
  dev: virtio-scsi-pci, id "s0"
    class SCSI controller, addr 00:05.0, pci id 1af4:1004 (sub 1af4:0008)
    addr = 05.0
    bus: s0.0
      type SCSI
      dev: scsi-hd, id "a"
        serial = "{}"
        lun = 3 (0x3)
      dev: scsi-hd, id "b"
        serial = "B"
        lun = 4 (0x4)
"""


def told(serial: str, end: str = "\r\n") -> dict[str, dict[str, Any]]:
    text = TREE.replace("\n", end).replace("{}", serial)
    vm = SimpleNamespace(monitor=lambda _line: text, properties={})
    read_devices(cast(VM, vm))
    return {path[len(PERIPHERAL) + 1 :]: known for path, known in vm.properties.items()}


def test_what_is_told() -> None:
    bus = f"{PERIPHERAL}/s0/s0.0"
    whole = told("A")
    assert whole == told("A", "\n")
    assert whole["s0"]["addr"] == 0x28
    assert {key: whole["a"][key] for key in ("serial", "lun", "parent_bus")} == {
        "serial": "A",
        "lun": 3,
        "parent_bus": bus,
    }
    assert {key: whole["b"][key] for key in ("serial", "lun", "parent_bus")} == {
        "serial": "B",
        "lun": 4,
        "parent_bus": bus,
    }


@pytest.mark.parametrize(
    ("serial", "why"),
    [
        ('x\n  dev: scsi-hd, id "evil"', "a device elsewhere"),
        ("x\nlun = 7", "a line further left"),
        ("x\n      lun = 7 (0x7)", "a line beside the device"),
        ("x\n             lun = 7 (0x7)", "a line below none"),
        ("x\n\tlun = 7 (0x7)", "a tab"),
    ],
)
def test_nothing_is_taken_where_a_line_is_out_of_place(serial: str, why: str) -> None:
    assert told(serial) == {}, why


@pytest.mark.parametrize(
    "serial",
    [
        'x"\n        lun = 7 (0x7)\n        y = "',
        'x"\n        parent_bus = "/elsewhere"\n        y = "',
        'x"\n      dev: scsi-hd, id "b"\n        serial = "evil',
        "x\u2028        lun = 7 (0x7)",
        "x\x0b  dev: scsi-hd",
        "x\x85lun = 7",
    ],
)
def test_nothing_wrong_is_taken_where_all_are_in_their_place(serial: str) -> None:
    right, found = told("A"), told(serial)
    for ident in ("s0", "a", "b"):
        for key, value in found.get(ident, {}).items():
            assert value == right[ident].get(key) or key in ("serial", "y"), f"{ident} {key}"
