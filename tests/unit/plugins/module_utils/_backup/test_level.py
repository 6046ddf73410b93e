# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which level a backup is of, and why, by what was read."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._backup.chain import Backup, Chain, Image
from ansible_collections.vmm.qemu.plugins.module_utils._backup.disks import Source, bitmap_name, job_id, node_name
from ansible_collections.vmm.qemu.plugins.module_utils._backup.level import bases, choose, counted
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._operations.disk_snapshot_disks import Disk, Layer

GOOD = {"busy": False, "recording": True, "count": 65536}


def backup(number: int, level: str, backing: str | None = None) -> Backup:
    bitmap = None if level == "copy" else f"b{number}"
    image = Image(f"a/{number}-{level}.qcow2", 1 << 20, backing, 0, None, "n", bitmap, "/a.img")
    return Backup(number, level, "", "2026-11-28T21:50:00Z", False, {"a": image})


FULL, INCREMENTAL = backup(1, "full"), backup(2, "incremental", "a/1-full.qcow2")
CHAIN = Chain("daily", {}, [FULL, INCREMENTAL, backup(3, "copy")])


def source(bitmaps: dict[str, Any], size: int = 1 << 20, path: str = "/a.img", name: str = "a") -> Source:
    layer = Layer("n", "qcow2", path, path, size, False)
    return Source(Disk(name, "/qom", "n", [layer]), bitmaps, True, "n")


def header(backing: str = "", size: int = 1 << 20) -> bytes:
    """The beginning of a qcow2 image."""
    fields = (b"QFI\xfb", 2, 72 if backing else 0, len(backing), 16, size, 0, 0, 0, 0, 0, 0, 0)
    return struct.pack(">4sIQIIQIIQQIIQ", *fields) + backing.encode()


def both(**changed: Any) -> dict[str, Any]:
    return {"b1": GOOD, "b2": {**GOOD, **changed}}


@pytest.mark.parametrize(
    ("asked", "chain", "found", "level", "base", "why"),
    [
        ("auto", None, source({}), "full", None, "there is no full backup yet"),
        ("auto", CHAIN, source(both()), "incremental", 2, "the bitmaps of backup 2 are good"),
        ("incremental", CHAIN, source(both()), "incremental", 2, "it was asked for"),
        ("differential", CHAIN, source(both()), "differential", 1, "it was asked for"),
        ("differential", CHAIN, source({"b1": GOOD}), "differential", 1, "it was asked for"),
        ("full", CHAIN, source(both()), "full", None, "it was asked for"),
        ("copy", CHAIN, source(both()), "copy", None, "it was asked for"),
        ("auto", CHAIN, source({"b1": GOOD}), "full", None, "does not have the bitmap of backup 2"),
        ("auto", CHAIN, source(both(inconsistent=True)), "full", None, "is inconsistent: QEMU was killed"),
        ("auto", CHAIN, source(both(recording=False)), "full", None, "was disabled"),
        ("auto", CHAIN, source(both(busy=True)), "full", None, "is in use by a job or an export"),
        ("auto", CHAIN, source(both(), size=2 << 20), "full", None, "a has grown from 1048576 to 2097152 bytes"),
        ("auto", CHAIN, source(both(), path="/b.img"), "full", None, "a is on /b.img, and was on /a.img"),
        ("auto", CHAIN, source(both(), name="b"), "full", None, "backup 2 is of a, and this one of b"),
    ],
)
def test_level(
    tmp_path: Path, asked: str, chain: Chain | None, found: Source, level: str, base: int | None, why: str
) -> None:
    (tmp_path / "a").mkdir()
    for image in CHAIN.images():
        (tmp_path / image).write_bytes(header())
    choice = choose(asked, chain, [found], str(tmp_path))
    assert (choice.level, choice.base and choice.base.number) == (level, base) and why in choice.why
    if level == "full" and asked == "auto":
        with pytest.raises(Refusal, match="level=auto takes a full one"):
            choose("incremental", chain, [found], str(tmp_path))
    below = tmp_path / "a" / "1-full.qcow2"
    below.write_bytes(header("/dev/sda"))
    assert "something else has written it" in choose("auto", CHAIN, [source(both())], str(tmp_path)).why
    below.unlink()
    assert choose("auto", CHAIN, [source(both())], str(tmp_path)).why.endswith("is not there any more")


def test_what_counts_and_what_is_kept() -> None:
    def numbers(level: str) -> list[int]:
        chain = counted(CHAIN, level)
        return [one.number for one in chain.backups] if chain else []

    assert (numbers("auto"), numbers("full"), numbers("copy"), numbers("differential")) == ([1, 2], [1], [3], [1])
    assert [one.number for one in bases(CHAIN)] == [2, 1] and bases(None) == []


def test_names_that_are_nobody_elses(tmp_path: Path) -> None:
    pairs = [("a", "b-c"), ("a-b", "c"), ("a", "b"), ("a-b-c", "d"), ("a", "b-c-d")]
    assert len({job_id(*pair) for pair in pairs}) == len({node_name(*pair) for pair in pairs}) == len(pairs)
    assert job_id("a", "b") == "vmm-backup-a-b" and all(len(node_name(*pair)) < 32 for pair in pairs)
    first = bitmap_name("daily", 1, str(tmp_path / "bk"))
    assert first == bitmap_name("daily", 1, str(tmp_path / "bk")) != bitmap_name("daily", 1, str(tmp_path / "other"))
    (tmp_path / "file").touch()
    assert bitmap_name("daily", 1, str(tmp_path / "bk")) != first


def test_a_chain_that_is_long_enough(tmp_path: Path) -> None:
    chain = Chain("daily", {}, [FULL])
    (tmp_path / "a").mkdir()
    for number in range(2, 101):
        chain = chain.add(backup(number, "incremental", chain.backups[-1].disks["a"].file))
    for file in chain.images():
        (tmp_path / file).write_bytes(header())
    found = [source({"b100": GOOD, "b99": GOOD, "b1": GOOD})]
    assert choose("auto", chain.without([100]), found, str(tmp_path)).level == "incremental"
    assert choose("auto", chain, found, str(tmp_path)).why == "the chain of a has 100 images"
    with pytest.raises(Refusal, match="the chain of a has 100 images"):
        choose("incremental", chain, found, str(tmp_path))
    assert choose("differential", chain, found, str(tmp_path)).base == FULL
