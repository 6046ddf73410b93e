# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images a disk is in, by what QEMU has told at different moments."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._operations.disk_snapshot_disks import all_disks


def told(filtered: bool) -> dict[str, Any]:
    """What is told of a disk, with the filter of a job over its image, or without."""
    below = ["filter", "image", "file"] if filtered else ["image", "file"]
    graph = [{"id": 0, "type": "block-backend", "name": "/machine/peripheral/d/x"}]
    graph += [{"id": number, "type": "block-driver", "name": name} for number, name in enumerate(below, 1)]
    edges = [{"parent": number, "child": number + 1, "name": "file"} for number in range(len(below))]
    drivers = {"filter": "copy-before-write", "image": "qcow2", "file": "file"}
    nodes = [
        {
            "node-name": name,
            "drv": drivers[name],
            "file": "/d.img",
            "ro": False,
            "cache": {},
            "image": {"virtual-size": 1},
        }
        for name in below
    ]
    block = [{"device": "", "qdev": "/machine/peripheral/d/x", "inserted": {}}]
    return {
        **{"x-debug-query-block-graph": {"nodes": graph, "edges": edges}, "query-block": block},
        **{"query-named-block-nodes": nodes, "query-block-exports": []},
    }


@pytest.mark.parametrize("first", [True, False])
def test_a_filter_that_goes_or_comes_between_two_looks(first: bool) -> None:
    answers = {**told(not first), "x-debug-query-block-graph": told(first)["x-debug-query-block-graph"]}
    vm = SimpleNamespace(ask=lambda query, **_more: answers[query], table=lambda _name, make: make(), peripherals=dict)
    found = list(all_disks(cast(VM, vm)).values())
    assert len(found) == 1
    disk = found[0]
    assert (disk.name, disk.top, [layer.node for layer in disk.layers]) == ("d", "image", ["image"])
    assert disk.layers[0].path == "/d.img"
