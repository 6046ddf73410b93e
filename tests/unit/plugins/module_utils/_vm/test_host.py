# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a whole VM stands on: directories, taps, the record, the console's log and the copy of the code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.account import Account
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.host import Host
from ansible_collections.vmm.qemu.plugins.module_utils._host import directory
from ansible_collections.vmm.qemu.plugins.module_utils._provision.instance import Instance
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._vm import code, console, record, service, tap
from ansible_collections.vmm.qemu.plugins.module_utils._vm.process import Process

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def host() -> Host:
    return Host(Deadline(10.0), Account())


def a_record(**other: Any) -> record.Record:
    base: dict[str, Any] = {
        **dict.fromkeys(record.Record._fields, 1),
        **{name: [] for name in ("command_line", "started", "taps", "images", "copied")},
        **{
            "name": "vm1",
            "user": None,
            "document": {},
            "power": "running",
            "code": None,
            "base": None,
            "incoming": False,
            "on_host_shutdown": "shutdown",
        },
    }
    return record.Record(**{**base, **other})


# -- directories -------------------------------------------------------------------------------------------------------


def test_a_directory_is_no_link_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name, words in (("link", "a symbolic link"), ("file", "not a directory")):
        with pytest.raises(Refusal, match=words):
            directory.look(f"{tmp_path}/{name}")
    assert directory.look(f"{tmp_path}/nothing") is None


def test_what_came_to_be_meanwhile_is_not_ours(tmp_path: Path) -> None:
    path = f"{tmp_path}/vm1"
    assert directory.make(path, directory.of_user(None, 0o700))
    os.chmod(path, 0o777)
    assert not directory.make(path, directory.of_user(None, 0o700))
    assert os.stat(path).st_mode & 0o777 == 0o700
    Path(path, "data").touch()
    directory.remove(path, whole=False)
    assert os.path.exists(f"{path}/data")
    directory.remove(path, whole=True)
    assert not os.path.exists(path)


@root_only
def test_its_user_may_pass_and_not_write(tmp_path: Path) -> None:
    access = directory.passed_by("nobody")
    assert (access.uid, access.mode) == (0, 0o710) and access.gid != 0
    with pytest.raises(Refusal, match="no user nosuchuser"):
        directory.passed_by("nosuchuser")


# -- taps --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's tree of interfaces: a bridge, a tap of somebody's, one of ours."""
    monkeypatch.setattr(tap, "_NET", str(tmp_path))
    for name, files in {
        "br0": {"flags": "0x1003", "uevent": "DEVTYPE=bridge\n", "bridge/x": ""},
        "theirs": {"flags": "0x1003", "tun_flags": "0x1002", "ifalias": ""},
        "ours": {"flags": "0x1002", "tun_flags": "0x1002", "ifalias": "vmm-qemu vm1\n"},
        "tun0": {"flags": "0x1003", "tun_flags": "0x1001", "ifalias": ""},
    }.items():
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
    (tmp_path / "theirs" / "master").symlink_to("../br0")
    return tmp_path


def want(name: str, **other: str) -> dict[str, str]:
    return {"name": name, "user": "", "mark": "vmm-qemu vm1", **other}


def test_taps_as_the_kernel_tells_them(net: Path) -> None:
    kind = tap.TAP
    assert kind.read(host(), want("nothing")) is None
    assert kind.read(host(), want("theirs")) == {"name": "theirs", "up": True, "bridge": "br0"}
    for name, words in (("br0", "not a tap but a bridge"), ("tun0", "not a tap")):
        with pytest.raises(Refusal, match=words):
            kind.read(host(), want(name))
    # to go: only what bears the mark
    found = [name for name in ("br0", "theirs", "ours", "tun0") if kind.read(host(), kind.identity(want(name)))]
    assert found == ["ours"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "with space", "sixteen_is_much!", "-x", "a%d"])
def test_a_name_that_no_interface_has(name: str) -> None:
    with pytest.raises(Refusal, match="not a valid name"):
        tap.TAP.check(want(name))


# -- the record --------------------------------------------------------------------------------------------------------


def test_a_record_comes_back(tmp_path: Path) -> None:
    path, kept = f"{tmp_path}/vm.json", a_record(name="vm1", document={"disks": [{"id": "d0"}]})
    assert record.read(path) is None
    step = record.write_step(path, kept)
    assert step.do and step.undo[0].do
    step.do(Deadline(1.0))
    assert record.read(path) == kept and os.stat(path).st_mode & 0o777 == 0o600
    second = record.write_step(path, a_record(name="vm2"))
    assert second.do and second.undo[0].do
    second.do(Deadline(1.0))
    second.undo[0].do(Deadline(1.0))
    assert record.read(path) == kept
    # what another task has written meanwhile is its own
    record.write(path, a_record(name="vm3").text())
    step.undo[0].do(Deadline(1.0))
    assert record.read(path) == a_record(name="vm3")
    record.write(path, kept.text())
    step.undo[0].do(Deadline(1.0))
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "damaged"), ("[]", "damaged"), ('{"version": 1}', "damaged"), ('{"version": 2}', "another version")],
)
def test_a_record_that_can_not_be_read(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "vm.json").write_text(text)
    with pytest.raises(Refusal, match=words):
        record.read(f"{tmp_path}/vm.json")


@root_only
def test_a_record_that_somebody_else_could_have_written(tmp_path: Path) -> None:
    path = tmp_path / "vm.json"
    path.write_bytes(a_record().text())
    path.chmod(0o620)
    with pytest.raises(Refusal, match="others than who runs the task can write it"):
        record.read(str(path))
    path.chmod(0o600)
    os.chown(path, 65534, -1)
    with pytest.raises(Refusal, match="others than who runs the task can write it"):
        record.read(str(path))
    path.unlink()
    path.symlink_to("/dev/null")
    with pytest.raises(Refusal, match="symbolic link"):
        record.read(str(path))


# -- the console -------------------------------------------------------------------------------------------------------


def test_a_log_is_cut_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_MOST", 10)
    monkeypatch.setattr(console, "_KEPT", 3)
    log, link = tmp_path / "console.log", tmp_path / "link"
    link.symlink_to(log)
    for text, path, left in (
        ("0123456789", log, "0123456789"),
        ("0123456789x", link, "0123456789x"),
        ("0123456789x", log, "89x"),
    ):
        log.write_text(text)
        console.bound_log(str(path))
        assert log.read_text() == left
    with open(log, "a") as qemu:
        log.write_text("0123456789x")
        console.bound_log(str(log))
        qemu.write("on")
    assert log.read_text() == "89xon"
    console.bound_log(f"{tmp_path}/nothing")


# -- the code ----------------------------------------------------------------------------------------------------------


@root_only
def test_the_code_is_put_where_only_root_can_write(tmp_path: Path) -> None:
    base = f"{tmp_path}/.code"
    path, files, there = code.place(base, None)
    assert files and not there and not os.path.exists(base)
    step = code.install_step(path, files, there)
    assert step.do
    before = os.umask(0)
    try:
        step.do(Deadline(10.0))
    finally:
        os.umask(before)
    assert not [found for found in Path(base).rglob("*") if found.stat().st_mode & 0o022]
    assert code.place(base, None) == (path, files, True) == code.place(base, path)
    # it needs nothing but Python
    done = subprocess.run(
        [sys.executable, *code.command(path, "start", f"{tmp_path}/vm1")[1:]],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 1
        and done.stderr
        == f"vm1: {tmp_path}/vm1: there is no record of a virtual machine: run qemu_vm, or the role vmm.qemu.vm\n"
    )
    assert (
        "ansible.module_utils"
        not in subprocess.run(
            [sys.executable, "-I", "-v", path, "start", f"{tmp_path}/vm1"], check=False, capture_output=True, text=True
        ).stderr
    )
    # another content is another place; what is used stays
    other = f"{path}/ansible_collections/vmm/qemu/plugins/module_utils/_vm/boot.py"
    text = Path(other).read_text()
    Path(other).write_text(text + "\n")
    assert code.place(base, path) == (path, files, False)
    (tmp_path / "vm1").mkdir()
    (tmp_path / "vm1" / "vm.json").write_bytes(a_record(code=path).text())
    code.sweep(base)
    assert os.path.isdir(path)
    (tmp_path / "vm1" / "vm.json").unlink()
    code.sweep(base)
    assert not os.path.exists(base)
    # one that was there when the plan was made, and has been swept away with another virtual machine
    again = code.install_step(path, files, True)
    assert again.hidden and again.do
    again.do(Deadline(10.0))
    assert code.place(base, None) == (path, files, True)
    tmp_path.chmod(0o777)
    with pytest.raises(Refusal, match="others than root can write"):
        code.place(base, None)


@pytest.mark.parametrize(
    ("line", "content", "asked"),
    [
        (["QEMU", "-run-with", "user=u"], b"\x7fELF", False),
        (["QEMU", "-runas", "u"], b"\x7fELF", False),
        (["QEMU", "-runas", "another"], b"\x7fELF", True),
        (["/bin/another", "-runas", "u"], b"\x7fELF", True),
        (["QEMU", "-runas", "u"], b"#!/bin/sh", True),
        (["QEMU"], b"\x7fELF", True),
        (None, b"\x7fELF", True),
    ],
)
@pytest.mark.parametrize("is_newer", [False, True])
def test_how_privileges_are_dropped_is_asked_of_a_new_program_only(
    line: list[str] | None, content: bytes, asked: bool, is_newer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary, kept_at = tmp_path / "qemu", tmp_path / "vm.json"
    binary.write_bytes(content)
    kept_at.touch()
    written = binary.stat().st_ctime + (-60 if is_newer else 60)
    os.utime(kept_at, (written, written))
    monkeypatch.setattr(Instance, "_user_option", lambda self, binary, user: ["asked"])
    qemu = object.__new__(Process)
    qemu.kept, qemu._kept_at = None, str(kept_at)
    if line is not None:
        qemu.kept = a_record(command_line=[str(binary) if word == "QEMU" else word for word in line])
    told = qemu._user_option(str(binary), "u")
    assert told == (["asked"] if asked or is_newer else (line or [])[1:])


def test_a_link_can_lead_to_another_old_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Instance, "_user_option", lambda self, binary, user: ["asked"])
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "qemu").write_bytes(b"\x7fELF")
    (tmp_path / "now").symlink_to("1")
    kept_at = tmp_path / "vm.json"
    kept_at.touch()
    os.utime(kept_at, (time.time() + 60,) * 2)
    for place, told in (("1", ["-runas", "u"]), ("now", ["asked"])):
        qemu = object.__new__(Process)
        binary = f"{tmp_path}/{place}/qemu"
        qemu.kept, qemu._kept_at = a_record(command_line=[binary, "-runas", "u"]), str(kept_at)
        assert qemu._user_option(binary, "u") == told


@pytest.mark.parametrize(
    ("asked", "user", "there", "wanted"),
    [
        ("auto", 0, True, True),
        ("auto", 0, False, False),
        ("auto", 1000, True, False),  # who is not root has no units
        ("daemon", 0, True, False),
        ("systemd", 0, False, True),
        ("systemd", 1000, True, None),
    ],
)
def test_when_systemd_starts_it(
    asked: str, user: int, there: bool, wanted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os.path, "isdir", lambda path: there)
    if wanted is None:
        with pytest.raises(Refusal, match="only root has units of systemd"):
            service.is_wanted({"service": asked})
        return
    assert service.is_wanted({"service": asked}) is wanted
