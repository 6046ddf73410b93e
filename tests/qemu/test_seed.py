# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_seed: a guest's own kernel reads the volume; it is written only when its content changes."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.images import altered_at
from support.modules import ModuleFailed, run_module
from support.vm import VM

TEXTS = {"user_data": "#cloud-config\npassword: hush\n" * 200, "meta_data": "instance-id: i1\n", "network_config": "{}"}


def seed(path: Path | str, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(None, "qemu_seed", check=check, diff=True, path=str(path), **{**TEXTS, **options})


def step(path: Path, *verbs: str, **options: Any) -> dict[str, Any]:
    """Check mode, which alters nothing, then the real run, and once more, which does nothing."""
    before = path.read_bytes() if path.exists() else None
    foretold = seed(path, check=True, **options)
    assert (path.read_bytes() if path.exists() else None) == before
    done = seed(path, **options)
    assert [command[0] for command in done["commands"]] == list(verbs)
    for key in ("changed", "commands", "diff"):
        assert done[key] == foretold[key]
    written = altered_at(path)
    again = seed(path, **options)
    assert not again["changed"] and again["commands"] == [] and again["diff"]["before"] == again["diff"]["after"]
    assert altered_at(path) == written and sorted(os.listdir(path.parent)) == [path.name]
    assert "hush" not in str(done)
    return done


def test_a_guest_reads_it(live_vm: VM) -> None:
    path = f"{live_vm.directory}/seed.iso"
    seed(path, vendor_data="")
    run_module(live_vm, "qemu_disk", id="seed", filename=path, read_only=True, bus="rp0")
    live_vm.guest_sees(blk={"vda"})
    for options in ("", "-o nojoliet"):
        live_vm.run_in_guest(f"mount -t iso9660 -r {options} /dev/vda /mnt")
        assert live_vm.run_in_guest("ls /mnt").split() == ["meta-data", "network-config", "user-data", "vendor-data"]
        assert live_vm.run_in_guest("cat /mnt/meta-data /mnt/network-config").strip() == "instance-id: i1\n{}"
        assert int(live_vm.run_in_guest("wc -c </mnt/user-data")) == len(TEXTS["user_data"])
        live_vm.run_in_guest("umount /mnt")
    run_module(live_vm, "qemu_disk", id="seed", state="absent")


def test_a_guest_reads_dictionaries_as_cloud_init_wants_them(live_vm: VM) -> None:
    path = f"{live_vm.directory}/seed.iso"
    user = {"hostname": "guest17", "runcmd": [["touch", "/a b"]], "disable_root": True}
    given: dict[str, Any] = {
        "user_data": user,
        "vendor_data": {"hostname": "guest17"},
        "network_config": {"version": 2},
    }
    done = [seed(path, meta_data={"instance-id": "i1"}, **given) for _time in range(2)]
    assert [result["changed"] for result in done] == [True, False]
    run_module(live_vm, "qemu_disk", id="seed", filename=path, read_only=True, bus="rp0")
    live_vm.guest_sees(blk={"vda"})
    live_vm.run_in_guest("mount -t iso9660 -r /dev/vda /mnt")
    read = {name: live_vm.run_in_guest(f"cat /mnt/{name}") for name in ("user-data", "vendor-data")}
    assert all(text.startswith("#cloud-config\n") for text in read.values())
    assert [yaml.safe_load(text) for text in read.values()] == [user, {"hostname": "guest17"}]
    assert yaml.safe_load(live_vm.run_in_guest("cat /mnt/meta-data")) == {"instance-id": "i1"}
    assert yaml.safe_load(live_vm.run_in_guest("cat /mnt/network-config")) == {"version": 2}
    live_vm.run_in_guest("umount /mnt")
    run_module(live_vm, "qemu_disk", id="seed", state="absent")


def test_it_is_written_when_its_content_changes(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    step(path, "mv", "chmod")
    assert path.stat().st_mode & 0o777 == 0o600
    done = subprocess.run(["blkid", "-p", "-o", "export", str(path)], check=True, capture_output=True, text=True)
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(done.stdout.split())  # what cloud-init looks for
    before = path.read_bytes()
    step(path, "mv", "chmod", meta_data="instance-id: i2\n")
    step(path, "mv", "chmod")
    assert path.read_bytes() == before
    step(path, "chmod", mode="0640")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_it_can_be_another_users(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    step(path, "mv", "chmod", "chown", owner="nobody")
    assert path.stat().st_uid == pwd.getpwnam("nobody").pw_uid


@pytest.mark.parametrize("size", [65 << 20, 1 << 40])
def test_a_file_too_large_for_a_seed_is_not_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "seed.iso"
    seed(path)
    os.truncate(path, size)
    for check in (True, False):
        with pytest.raises(ModuleFailed, match="larger than any seed"):
            seed(path, check)
    assert path.stat().st_size == size


def test_a_link_is_not_replaced_nor_given_away(tmp_path: Path) -> None:
    seed(tmp_path / "real", mode="0644")
    os.symlink(tmp_path / "real", tmp_path / "link")
    before = (tmp_path / "real").read_bytes()
    assert not seed(tmp_path / "link", mode="0644")["changed"]
    for options in ({"mode": "0600"}, {"user_data": "new"}):
        for check in (True, False):
            with pytest.raises(ModuleFailed, match="symbolic link"):
                seed(tmp_path / "link", check, **{"mode": "0644", **options})
    assert (tmp_path / "real").read_bytes() == before and (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "seed.iso"}, "not an absolute path"),
        ({"path": "/nonexistent/seed.iso"}, "no directory /nonexistent"),
        ({"path": "/etc"}, "is not a regular file"),
        ({"owner": "nosuchuser"}, "no user nosuchuser"),
        ({"mode": "rw"}, "'rw' is not a valid mode"),
        ({"mode": "7777"}, "is not a valid mode"),
        ({"user_data": ["#cloud-config"]}, "user_data: this is neither a text nor a mapping"),
        ({"meta_data": "a: \ud800"}, "meta_data: it is not text in UTF-8"),
        ({"user_data": "a: \ud800"}, "user_data: its character 4 is half of a pair"),
        ({"meta_data": 5}, "meta_data: this is neither a text nor a mapping"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_bad_requests(tmp_path: Path, options: dict[str, Any], words: str, check: bool) -> None:
    with pytest.raises(ModuleFailed, match=words):
        seed(options.get("path", tmp_path / "seed.iso"), check, **{k: v for k, v in options.items() if k != "path"})
    assert list(tmp_path.iterdir()) == []


def test_a_seed_that_can_not_be_given_away_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "seed.iso"
    seed(path)
    before = path.read_bytes()

    def refuse(*arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(ModuleFailed, match="Operation not permitted") as failed:
        seed(path, meta_data="instance-id: i2\n", owner="nobody")
    assert (failed.value.result["changed"], failed.value.result["commands"]) == (False, [])
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
