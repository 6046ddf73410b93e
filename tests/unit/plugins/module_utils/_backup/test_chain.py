# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of backups: read, written, chosen from, and pruned."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._backup import chain as chains
from ansible_collections.vmm.qemu.plugins.module_utils._backup import retention
from ansible_collections.vmm.qemu.plugins.module_utils._backup.chain import Backup, Chain, Image
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal

DAY = 86400
NOON = 1_800_000_000
"""A moment: 2027-01-15T08:00:00Z."""


def backup(number: int, level: str, on: int = 0, *, days_ago: float = 0.0, disk: str = "vda") -> Backup:
    """Return a backup that stands on that of another number, by default on none."""
    below = next((f"{disk}/{on}-{one}.qcow2" for one in [BY_NUMBER.get(on, "full")] if on), None)
    BY_NUMBER[number] = level
    image = Image(f"{disk}/{number}-{level}.qcow2", 1 << 20, below, 4096, None, "n", "b", {"inode": 1})
    return Backup(number, level, "asked for", chains.time_text(NOON - days_ago * DAY), False, {disk: image})


BY_NUMBER: dict[int, str] = {}


def chain(*backups: Backup) -> Chain:
    return Chain("nightly", {"name": "vm1", "uuid": None}, list(backups))


def three() -> Chain:
    return chain(backup(1, "full", days_ago=3), backup(2, "incremental", 1, days_ago=2), backup(3, "copy", days_ago=1))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert chains.read(str(tmp_path), "nightly") is None
    chains.write(str(tmp_path), chain())
    chains.write(str(tmp_path), three())
    file = tmp_path / chains.FILE
    assert file.stat().st_mode & 0o777 == 0o600 and os.listdir(tmp_path) == [chains.FILE]
    assert chains.read(str(tmp_path), "nightly") == three()
    with pytest.raises(Refusal, match=r"name: .* has the backups 'nightly', not 'weekly'"):
        chains.read(str(tmp_path), "weekly")


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets a member (``backups.0.time``) of the document, or removes it where the value is ``...``."""

    def do(document: dict[str, Any]) -> None:
        *way, last = path.split(">")
        at: Any = document
        for key in way:
            at = at[int(key)] if isinstance(at, list) else at[key]
        if value is ...:
            del at[last]
        else:
            at[last] = value

    return do


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda document: document["backups"].reverse(), "backup 2 is out of order"),
        (change("version", 2), "another version"),
        (change("version", True), "another version"),
        (change("version", ...), "not a list of backups"),
        (change("name", 5), "damaged"),
        (change("more", 1), "damaged"),
        (change("backups>0>number", 9), "not a valid name of an image"),
        (change("backups>0>number", 0), "out of order"),
        (change("backups>0>number", True), "damaged"),
        (change("backups>0>time", "yesterday"), "damaged"),
        (change("backups>0>level", "most"), "level 'most'"),
        (change("backups>0>disks", {}), "has no disk"),
        (change("backups>0>disks", [1]), "damaged"),
        (change("backups>0>disks>vda", None), "damaged"),
        (change("backups>0>disks>vda>size", -1), "size is -1"),
        (change("backups>0>disks>vda>file", "../vda/1-full.qcow2"), "not a valid name of an image"),
        (change("backups>0>disks>vda>file", "/vda/1-full.qcow2"), "not a valid name of an image"),
        (change("backups>0>disks>vda>file", "vda/2-full.qcow2"), "not a valid name of an image"),
        (change("backups>1>disks>vda>backing", "/etc/shadow"), "which is not in an earlier backup of vda"),
        (change("backups>1>disks>vda>backing", "vda/2-incremental.qcow2"), "which is not in an earlier backup of vda"),
        (change("backups>0>disks>vda>backing", "vda/2-incremental.qcow2"), "which is not in an earlier backup of vda"),
        (change("backups>0>disks>..", {}), "damaged"),
        (change("backups>0>disks>a\ud800", dict(three().backups[0].disks["vda"]._asdict())), "not a valid name of a disk"),
    ],
)  # fmt: skip
def test_a_document_that_was_not_written_here(
    tmp_path: Path, what: Callable[[dict[str, Any]], None], message: str
) -> None:
    document = json.loads(three().text())
    what(document)
    file = tmp_path / chains.FILE
    file.write_text(json.dumps(document))
    file.chmod(0o600)
    with pytest.raises(Refusal, match=message) as caught:
        chains.read(str(tmp_path), "nightly")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"nonsense", b"\xff\xfe", b"[" * 100_000, b"1"])
def test_a_file_that_is_something_else(tmp_path: Path, text: bytes) -> None:
    (tmp_path / chains.FILE).write_bytes(text)
    (tmp_path / chains.FILE).chmod(0o600)
    with pytest.raises(Refusal, match="not a list of backups"):
        chains.read(str(tmp_path), "nightly")


def test_a_link_a_directory_and_a_stranger_s(tmp_path: Path) -> None:
    real, file = tmp_path / "real", tmp_path / chains.FILE
    real.write_bytes(three().text())
    file.symlink_to(real)
    with pytest.raises(Refusal, match=chains.FILE):
        chains.read(str(tmp_path), "nightly")
    file.unlink()
    file.mkdir()
    with pytest.raises(Refusal, match="not a regular file"):
        chains.read(str(tmp_path), "nightly")
    file.rmdir()
    real.rename(file)
    if not os.geteuid():
        os.chown(file, 12345, -1)
        with pytest.raises(Refusal, match="owner 12345"):
            chains.read(str(tmp_path), "nightly")
        os.chown(tmp_path, 12345, -1)  # whose directory it is could replace it anyway
        file.chmod(0o600)
        assert chains.read(str(tmp_path), "nightly") == three()
    file.chmod(0o666)
    with pytest.raises(Refusal, match="others than whose directory it is can write it"):
        chains.read(str(tmp_path), "nightly")


def test_how_old_it_is() -> None:
    assert chains.why_due(None, DAY, NOON) == chains.why_due(chain(), DAY, NOON) == "there is no backup yet"
    taken = chain(backup(1, "full", days_ago=0.5))
    assert not chains.why_due(taken, DAY, NOON)
    assert chains.why_due(taken, DAY // 2, NOON) == "backup 1 is 12:00:00 old"
    assert "the clock was wrong" in chains.why_due(taken, DAY, NOON - DAY)


@pytest.mark.parametrize(
    ("text", "wanted"), [("1d", DAY), ("12h", DAY // 2), ("30m", 1800), ("2w", 14 * DAY), ("9s", 9)]
)
def test_periods(text: str, wanted: int) -> None:
    assert chains.seconds("every", text) == wanted


@pytest.mark.parametrize("text", ["", "1", "d", "0d", "-1d", "1.5d", "1d ", "1D", "1d2h", "٣d"])
def test_what_is_not_a_period(text: str) -> None:
    with pytest.raises(Refusal, match=r"every: .* is not a valid period"):
        chains.seconds("every", text)


@pytest.mark.parametrize(
    ("until", "number"),
    [
        (None, 3),
        ("1", 1),
        ("2027-01-13T08:00:00Z", 2),
        ("2027-01-13T07:59:59Z", 1),
        ("2027-01-13 09:00:00+01:00", 2),
        ("2027-01-13", 1),
        ("2099-01-01T00:00:00", 3),
    ],
)
def test_the_backup_that_is_chosen(until: str | None, number: int) -> None:
    assert chains.chosen(three(), until).number == number


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("4", "there is no backup 4, only 1, 2, 3"),
        ("9" * 5000, "there is no backup"),
        ("²", "there is no backup"),
        ("2020-01-01", "the first one, 1, is of"),
        ("soon", "is neither the number of a backup nor a time"),
        ("", "is neither"),
    ],
)
def test_a_backup_that_is_not_there(until: str, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        chains.chosen(three(), until)


def test_what_an_image_needs() -> None:
    taken = chain(
        backup(1, "full"), backup(2, "incremental", 1), backup(3, "differential", 1), backup(4, "incremental", 2)
    )
    files = [one.file for one in taken.below(taken.backups[-1].disks["vda"])]
    assert files == ["vda/4-incremental.qcow2", "vda/2-incremental.qcow2", "vda/1-full.qcow2"]


def weeks() -> Chain:
    """Two full backups with what stands on them, a copy between, and one on a third full backup."""
    return chain(
        backup(1, "full", days_ago=30),
        backup(2, "incremental", 1, days_ago=20),
        backup(3, "copy", days_ago=19),
        backup(4, "full", days_ago=15),
        backup(5, "differential", 4, days_ago=10),
        backup(6, "full", days_ago=5),
        backup(7, "copy", days_ago=4),
    )


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        (None, []),
        ({"full": None, "days": None}, []),
        ({"full": 3}, []),
        ({"full": 2}, [1, 2, 3]),
        ({"full": 1}, [1, 2, 3, 4, 5]),
        ({"days": 1}, [1, 2, 3, 4, 5]),  # the newest full backup stays, however old
        ({"days": 10}, [1, 2, 3]),  # with all of its kind, the oldest of which is older
        ({"days": 19.5}, [1, 2]),
        ({"full": 1, "days": 20}, []),
    ],
)  # fmt: skip
def test_what_is_pruned(keep: dict[str, Any] | None, gone: list[int]) -> None:
    taken = weeks()
    assert retention.pruned(taken, keep, NOON) == gone
    left = taken.without(gone)
    assert all(image.backing is None or image.backing in left.images() for image in left.images().values())


def test_backups_that_share_a_base_in_part_go_together() -> None:
    """A disk that came later has its full backup within another's incremental one."""
    first, second = backup(1, "full", days_ago=9), backup(2, "incremental", 1, days_ago=8)
    joined = second._replace(disks={**second.disks, **backup(2, "full", disk="vdb").disks})
    BY_NUMBER[2] = "full"
    third = backup(3, "incremental", 2, days_ago=7, disk="vdb")
    taken = chain(first, joined, third, backup(4, "full", days_ago=1))
    assert retention.pruned(taken, {"days": 7}, NOON) == []
    assert retention.pruned(taken, {"full": 1}, NOON) == [1, 2, 3]


@pytest.mark.parametrize("keep", [{}, {"full": 0}, {"days": -1}, {"full": 2, "days": 0}])
def test_keep_that_keeps_nothing(keep: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="keep"):
        retention.check_keep(keep)


def test_the_images_that_no_backup_has(tmp_path: Path) -> None:
    assert retention.unlisted(None, str(tmp_path / "none")) == []
    for name in (
        *(
            "vda/1-full.qcow2",
            "vda/2-incremental.qcow2",
            "vda/4-full.qcow2.part",
            "vda/5-full.qcow2",
            "vdb/5-full.qcow2",
        ),
        *("vda/notes.txt", "vda/full.qcow2", "vda/0-full.qcow2"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "vda")
    found = retention.unlisted(three(), str(tmp_path))
    assert found == ["vda/4-full.qcow2.part", "vda/5-full.qcow2", "vdb/5-full.qcow2"]
