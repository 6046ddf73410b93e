# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups restored and verified: chains made by hand, and what qemu-img and the file system say of the images."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._backup import chain as chains
from ansible_collections.vmm.qemu.plugins.module_utils._backup import restore
from ansible_collections.vmm.qemu.plugins.module_utils._backup.chain import Backup, Chain, Image
from support.modules import ModuleFailed, run_module
from support.timing import until
from support.vm import VM

MIB = 1 << 20
SIZE = 8 * MIB
DISKS = ("vda", "data")


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Chains:
    """Backups of two disks by hand: full, incremental twice, a differential and a copy; and what each disk was then."""

    LEVELS = (("full", 0), ("incremental", 1), ("incremental", 2), ("differential", 1), ("copy", 0))

    def __init__(self, directory: Path) -> None:
        self.wanted = directory / "wanted"
        self.wanted.mkdir()
        self.at(directory)
        backups: list[Backup] = []
        for number, (level, on) in enumerate(self.LEVELS, 1):
            images = {
                disk: self._image(disk, number, level, backups[on - 1].disks[disk] if on else None) for disk in DISKS
            }
            time = f"2026-11-{10 + number}T12:00:00Z"
            backups.append(Backup(number, level, "asked for", time, False, images))
        self.chain = Chain("nightly", {"name": "vm1", "uuid": None}, backups)
        chains.write(self.path, self.chain)

    def at(self, directory: Path) -> Chains:
        self.directory = directory / "backups"
        self.path = str(self.directory)
        return self

    def _image(self, disk: str, number: int, level: str, below: Image | None) -> Image:
        file = chains.file_name(disk, number, level)
        path, wanted = self.directory / file, self.wanted_path(disk, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        backing = ["-b", os.path.basename(below.file), "-F", "qcow2"] if below else []
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(path), str(SIZE))
        if below:
            before = self.wanted_path(disk, int(os.path.basename(below.file).partition("-")[0]))
            run("cp", str(before), str(wanted))
        else:
            run("qemu-img", "create", "-q", "-f", "raw", str(wanted), str(SIZE))
        writes = [f"write -P {number * 16 + len(disk)} {number * 512}k 1M", f"write -z {number * 256}k 64k"]
        for image, kind in ((path, "qcow2"), (wanted, "raw")):
            run("qemu-io", "-f", kind, *[word for write in writes for word in ("-c", write)], str(image))
        size = path.stat().st_size
        return Image(file, SIZE, below and below.file, size, None, f"{disk}-node", "vmm-nightly", {"file": f"/{disk}"})

    def wanted_path(self, disk: str, number: int) -> Path:
        return self.wanted / f"{disk}-{number}.raw"

    def image(self, disk: str, number: int) -> Path:
        return self.directory / self.chain.backups[number - 1].disks[disk].file

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads(self.chain.text())
        change(document)
        (self.directory / chains.FILE).write_text(json.dumps(document))

    def is_restored(self, disk: str, number: int, path: Path | str, kind: str = "qcow2") -> bool:
        command = ["qemu-img", "compare", "-f", "raw", "-F", kind, str(self.wanted_path(disk, number)), str(path)]
        found = json.loads(subprocess.check_output(["qemu-img", "info", "-f", kind, "--output=json", str(path)]))
        assert "backing-filename" not in found
        return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Chains:
    return Chains(tmp_path_factory.mktemp("template"))


@pytest.fixture
def backups(template: Chains, tmp_path: Path) -> Chains:
    """A copy in another directory: what is in the images and in the list goes with it."""
    shutil.copytree(template.directory, tmp_path / "backups")
    return copy.copy(template).at(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def task(backups: Chains, state: str = "restored", *, check: bool = False, **options: Any) -> dict[str, Any]:
    given = {"name": "nightly", "path": backups.path, **options}
    return run_module(None, "qemu_backup", check=check, diff=True, state=state, **given)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def step(backups: Chains, out: Path, changed: int, **options: Any) -> dict[str, Any]:
    """Check mode, which alters nothing; the run, which does what that said; and the run again, which does nothing."""
    before = contents(out)
    foretold = task(backups, check=True, **options)
    assert contents(out) == before
    done = task(backups, **options)
    assert done["changed"] == foretold["changed"] == bool(changed)
    assert done["commands"] == foretold["commands"] and len(done["commands"]) == 2 * changed
    assert done["diff"] == foretold["diff"] and (done["diff"]["before"] != done["diff"]["after"]) == bool(changed)
    after = contents(out)
    for check in (True, False):
        again = task(backups, check=check, **{**options, "force": False})
        assert (again["changed"], again["commands"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"]
    assert contents(out) == after and not [name for name in after if name.endswith(".part")]
    return done


def refused(backups: Chains, out: Path, *words: str, **options: Any) -> str:
    before = contents(out), contents(backups.directory)
    for check in (True, False):
        with pytest.raises(ModuleFailed) as failed:
            task(backups, check=check, **options)
        message = str(failed.value)
        assert all(word in message for word in words), message
        assert failed.value.result["changed"] is False
        assert (contents(out), contents(backups.directory)) == before
    return message


@pytest.mark.parametrize("number", range(1, 6))
def test_every_backup_is_restored(backups: Chains, out: Path, number: int) -> None:
    done = step(backups, out, 2, to=str(out), until=str(number))
    assert done["backup"]["number"] == number
    for disk in DISKS:
        assert backups.is_restored(disk, number, out / f"{disk}.qcow2")
        assert (out / f"{disk}.qcow2").stat().st_mode & 0o777 == 0o600
        assert done["backup"]["disks"][disk]["restored"] == str(out / f"{disk}.qcow2")


def test_the_newest_one_disk_raw_and_a_time(backups: Chains, out: Path) -> None:
    paths = {"vda": str(out / "x.img"), "data": str(out / "y.img")}
    step(backups, out, 2, to=paths, format="raw", until="2026-11-13T12:00:00Z")
    assert all(backups.is_restored(disk, 3, path, "raw") for disk, path in paths.items())
    step(backups, out, 1, to=str(out), exclude=["data"])
    assert backups.is_restored("vda", 5, out / "vda.qcow2") and not (out / "data.qcow2").exists()
    done = step(backups, out, 1, to=str(out), disks=["vda", "data"])  # one of them is there
    assert [line[-1] for line in done["commands"][::2]] == [str(out / "data.qcow2.part")]


def test_an_image_that_is_there(backups: Chains, out: Path) -> None:
    image = out / "vda.qcow2"
    step(backups, out, 1, to=str(out), disks=["vda"], until="2")
    refused(backups, out, f"to: {image} is there, and backup 3 has other data: set force", to=str(out), until="3")
    os.removexattr(image, "user.vmm.qemu.backup")  # as a copy has none
    again = task(backups, to=str(out), disks=["vda"], until="2")
    assert not again["changed"]
    # what the guest has written since is no reason to restore once more, and lost only where that is asked for
    run("qemu-io", "-f", "qcow2", "-c", "write -P 99 0 1M", str(image))
    refused(backups, out, "other data", to=str(out), disks=["vda"], until="2")
    done = task(backups, to=str(out), disks=["vda"], until="2", force=True)
    assert done["changed"] and backups.is_restored("vda", 2, image)
    again = task(backups, to=str(out), disks=["vda"], until="2", force=True)
    assert (again["changed"], again["commands"]) == (False, []) and again["diff"]["before"] == again["diff"]["after"]
    image.write_bytes(b"not an image")
    assert task(backups, to=str(out), disks=["vda"], until="2", force=True)["changed"]
    run("qemu-io", "-f", "qcow2", "-c", "write -P 99 0 1M", str(image))
    assert not task(backups, to=str(out), disks=["vda"], until="2")["changed"]
    image.unlink()
    image.symlink_to(out / "elsewhere")
    refused(backups, out, "symbolic link", to=str(out), disks=["vda"], force=True)


def test_an_image_that_a_virtual_machine_uses(backups: Chains, out: Path, start_vm: Callable[..., VM]) -> None:
    task(backups, to=str(out), disks=["vda"], until="1")
    image = out / "vda.qcow2"
    start_vm(
        args=[
            "-blockdev",
            f"qcow2,node-name=n,file.driver=file,file.filename={image}",
            "-device",
            "virtio-blk-pci,drive=n",
        ]
    )
    refused(backups, out, f"to: {image} is in use", to=str(out), disks=["vda"], until="2", force=True)
    refused(backups, out, f"to: {image} can't be compared", "lock", to=str(out), disks=["vda"], until="2")
    assert not task(backups, to=str(out), disks=["vda"], until="1")["changed"]
    assert not [name for name in os.listdir(out) if name.endswith(".part")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["to: say where the images go"]),
        ({"to": "out"}, ["to: 'out' is not an absolute path"]),
        ({"to": ["a"]}, ["to: ['a'] is neither a directory nor a dictionary"]),
        ({"to": {"vda": "/x/y"}}, ["to: data has no path there"]),
        ({"to": {"vda": "/x/y", "data": "/x/y"}}, ["two disks, vda and data"]),
        ({"to": {"vda": "/x/y", "data": "/x/z", "vdc": "/x/a"}}, ["to: 'vdc' is not among the disks"]),
        ({"to": "{out}/none"}, ["there is no directory {out}/none"]),
        ({"to": "{backups}/vda"}, ["is in the directory of the backups itself"]),
        ({"to": "{out}", "disks": ["vdx"]}, ["disks: backup 5 has no disk 'vdx', only vda, data"]),
        ({"to": "{out}", "exclude": ["vda", "data"]}, ["no disk is left"]),
        ({"to": "{out}", "until": "9"}, ["until: there is no backup 9"]),
        ({"to": "{out}", "qemu_img": "/no/qemu-img"}, ["qemu_img: there is no program"]),
    ],
)
def test_bad_input(backups: Chains, out: Path, options: dict[str, Any], words: list[str]) -> None:
    places = {"out": str(out), "backups": backups.path}
    if isinstance(options.get("to"), str):
        options = {**options, "to": options["to"].format(**places)}
    refused(backups, out, *[word.format(**places) for word in words], **options)


# -- a directory that others have written to --------------------------------------------------------------------------


def test_a_list_that_leads_elsewhere(backups: Chains, out: Path, tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "1-full.qcow2"), str(SIZE))

    def lead_out(document: dict[str, Any]) -> None:
        document["backups"][0]["disks"]["vda"]["file"] = "../1-full.qcow2"

    backups.edit(lead_out)
    refused(backups, out, "'../1-full.qcow2' is not a valid name of an image", to=str(out), until="1")


@pytest.mark.parametrize("what", ["file", "directory", "fifo", "gone"])
def test_links_in_the_place_of_images(backups: Chains, out: Path, tmp_path: Path, what: str) -> None:
    image = backups.image("vda", 1)
    if what == "directory":
        image.parent.rename(tmp_path / "moved")
        image.parent.symlink_to(tmp_path / "moved")
    else:
        image.rename(tmp_path / "moved")
        {"file": lambda: image.symlink_to(tmp_path / "moved"), "fifo": lambda: os.mkfifo(image), "gone": lambda: None}[
            what
        ]()
    for state in ("restored", "verified"):
        with pytest.raises(ModuleFailed, match="which the backup needs, can't be read"):
            task(backups, state, to=str(out) if state == "restored" else None, disks=["vda"], until="2")
    assert not os.listdir(out)


@contextmanager
def secret_file(directory: Path) -> Iterator[Path]:
    secret = directory / "secret"
    secret.write_bytes(b"secret" * 4096)
    yield secret


@pytest.mark.parametrize("number", [1, 3])
def test_headers_that_name_other_files(backups: Chains, out: Path, tmp_path: Path, number: int) -> None:
    """Whatever is below or in the newest image of the chain: what its header names is not opened."""
    with secret_file(tmp_path) as secret:
        image = backups.image("vda", number)
        run("qemu-img", "rebase", "-u", "-b", str(secret), "-F", "raw", str(image))
        refused(backups, out, str(image), f"{str(secret)!r}", "something else has written it", to=str(out), until="3")
        image.unlink()
        run(
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            f"data_file={secret},data_file_raw=on",
            str(image),
            str(SIZE),
        )
        refused(backups, out, str(image), "its data are in another file", to=str(out), until="3")
        image.unlink()
        run("qemu-img", "create", "-q", "-f", "raw", str(image), str(SIZE))
        refused(backups, out, f"{image} is not a qcow2 image", to=str(out), until="3")
        run("qemu-img", "create", "-q", "-f", "qcow2", str(image), str(2 * SIZE))
        refused(backups, out, f"{image} is a disk of {2 * SIZE} bytes", to=str(out), until="3")


# -- no room, and runs that end in the middle -------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Three MiB."""
    place = tmp_path / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place))
    try:
        yield place
    finally:
        run("umount", str(place))


def test_no_room(backups: Chains, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(backups, small, f"to: {small} has room for {3 * MIB} bytes", to=str(small), until="3")
    monkeypatch.setattr(restore, "_check_room", lambda tool, targets: None)  # it is used up meanwhile
    with pytest.raises(ModuleFailed, match=r"could not be restored.*No space left") as failed:
        task(backups, to=str(small), until="3")
    assert failed.value.result["changed"] is False and not os.listdir(small)
    assert [command[0] for command in failed.value.result.get("rolled_back", [])] in ([], ["rm"])


def test_a_run_that_is_killed_or_out_of_time(backups: Chains, out: Path, tmp_path: Path) -> None:
    """Its qemu-img goes on, which the next run says; what that leaves is no obstacle, and goes."""
    slow, begun, go = tmp_path / "slow-img", tmp_path / "begun", tmp_path / "go"
    wait = f"touch {begun}; while [ ! -e {go} ]; do sleep 0.1; done"
    slow.write_text(f'#!/bin/sh\nif [ "$1" = convert ]; then {wait}; fi\nexec qemu-img "$@"\n')
    slow.chmod(0o755)
    options: dict[str, Any] = {"to": str(out), "disks": ["vda"], "qemu_img": str(slow)}
    with pytest.raises(ModuleFailed, match="convert was not done within the timeout"):
        task(backups, timeout=5.0, **options)
    assert not os.listdir(out)
    begun.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            task(backups, timeout=600.0, **options)
        os._exit(0)
    until(begun.exists)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(ModuleFailed, match="another task is making"):
        task(backups, to=str(out), disks=["vda"])
    go.touch()

    def done() -> bool:
        with contextlib.suppress(ModuleFailed):
            task(backups, to=str(out), disks=["vda"])
            return True
        return False

    until(done)
    assert os.listdir(out) == ["vda.qcow2"] and backups.is_restored("vda", 5, out / "vda.qcow2")


# -- verified ----------------------------------------------------------------------------------------------------------


def test_what_is_verified(backups: Chains, out: Path) -> None:
    before = contents(backups.directory)
    done = task(backups, "verified", until="3")
    assert (done["changed"], done["commands"]) == (False, [])
    found = done["backup"]["verified"]["vda"]
    assert found == {
        "images": [str(backups.image("vda", number)) for number in (3, 2, 1)],
        **{"read": SIZE, "leaks": [], "same_as": None},
    }
    task(backups, to=str(out), until="3")
    done = task(backups, "verified", until="3", to=str(out))
    assert done["backup"]["verified"]["data"]["same_as"] == str(out / "data.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 99 7M 64k", str(out / "data.qcow2"))
    with pytest.raises(ModuleFailed, match=rf"to: {out}/data.qcow2 has other data than {backups.image('data', 3)}"):
        task(backups, "verified", until="3", to=str(out))
    assert contents(backups.directory) == before


def test_a_damaged_image(backups: Chains) -> None:
    image = backups.image("vda", 1)
    with image.open("r+b") as file:
        file.seek(40)  # where the L1 table is
        at = struct.unpack(">Q", file.read(8))[0]
        file.seek(at)
        table = struct.unpack(">Q", file.read(8))[0] & 0x00FFFFFFFFFFFE00
        file.seek(table)
        file.write(struct.pack(">Q", 1 << 63 | 1 << 40))  # an L2 entry that leads beyond the file
    with pytest.raises(ModuleFailed, match=rf"path: {image} is damaged: qemu-img check says") as failed:
        task(backups, "verified", until="3")
    assert failed.value.result["rc"] == 2
    assert task(backups, "verified", disks=["data"], until="3")["backup"]["verified"]["data"]["read"] == SIZE
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    with pytest.raises(ModuleFailed, match=str(image)):
        task(backups, "verified", until="3")
