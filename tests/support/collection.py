# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make `ansible_collections.vmm.qemu` importable from this clone, wherever it lies."""

from __future__ import annotations

import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
COMPILED = REPO / "tests" / "support" / "compiled"
"""For PYTHONPATH: what Ansible compiles again and again is kept."""


def collection_root() -> Path:
    """A directory that holds ansible_collections/vmm/qemu: the tree the clone is in, or one with a symlink to it."""
    if REPO.parts[-3:] == ("ansible_collections", "vmm", "qemu"):
        return REPO.parents[2]
    root = REPO / ".bed" / "collections"
    link = root / "ansible_collections" / "vmm" / "qemu"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to("../../../..")
    return root


def make_importable() -> None:
    """For this process: through Ansible's own finder where there is an Ansible, else as a plain namespace package."""
    root = str(collection_root())
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
    except ImportError:
        return
    if not any(isinstance(finder, _AnsibleCollectionFinder) for finder in sys.meta_path):
        _AnsibleCollectionFinder(paths=[root])._install()
