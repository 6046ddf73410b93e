# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_backup: what is in the images that it lists, and what is left where it is stopped or fails."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._backup.absent import Absent
from ansible_collections.vmm.qemu.plugins.module_utils._backup.disks import job_id
from ansible_collections.vmm.qemu.plugins.module_utils._backup.fleece import mark
from support.fake_agent import FakeAgent
from support.killed import forked, kill, killed_before
from support.lifecycle import Lifecycle
from support.modules import ModuleFailed, run_module
from support.observer import ObserverError
from support.proxy import Proxy
from support.timing import until
from support.vm import VERSIONS, VM

SIZE = 8 << 20
LONG = bool(os.environ.get("VMM_QEMU_LONG"))
LIVE_VM = {"scsi": True}
DISKS = (("a", "scsi-hd", "raw", "scsi0.0"), ("b", "virtio-blk-pci", "qcow2", "rp0"))


def plug(vm: VM, new: bool = True, owner: int = 0) -> VM:
    """`a` is a raw scsi-hd, `b` a qcow2 virtio-blk."""
    for name, driver, fmt, bus in DISKS:
        path = vm.image(f"{name}.img", str(SIZE), fmt) if new else f"{vm.directory}/{name}.img"
        os.chown(path, owner, -1)
        run_module(vm, "qemu_disk", id=name, driver=driver, filename=path, format=fmt, bus=bus)
    return vm


@pytest.fixture
def vm(start_vm: Callable[..., VM]) -> VM:
    """No guest, not started."""
    return plug(start_vm(scsi=True))


@pytest.fixture
def life(vm: VM) -> Lifecycle:
    return Lifecycle(vm, "qemu_backup")


def device(disk: str) -> str:
    return f"/machine/peripheral/{disk}/virtio-backend" if disk in ("b", "c") else disk


def write(vm: VM, pattern: int, at: str = "0", size: str = "1M", disks: str = "ab") -> None:
    """As the guest would, through the devices."""
    for disk in disks:
        vm.observer.hmp(f'qemu-io -d {device(disk)} "write -P {pattern} {at} {size}"')
        vm.observer.hmp(f'qemu-io -d {device(disk)} "flush"')


def place(vm: VM) -> Path:
    return vm.directory / "bk"


def backup(vm: VM, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_backup", **{"name": "daily", "path": str(place(vm)), **options})


def listed(vm: VM) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place(vm) / "chain.json").read_text())["backups"]
    return found


def is_good(vm: VM, number: int = 0, disks: str = "ab") -> None:
    """The images of that backup are whole, and hold what the disks hold now."""
    entry = next(one for one in listed(vm)[::-1] if number in (0, one["number"]))
    for disk in disks:
        image = place(vm) / entry["disks"][disk]["file"]
        subprocess.run(["qemu-img", "check", "-q", str(image)], check=True)
        same(str(image), f"{vm.directory}/{disk}.img", "raw" if disk == "a" else "qcow2")


def same(image: str, other: str, fmt: str) -> None:
    command = ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", fmt, image, other]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, f"{image}: {done.stdout}"


def bitmaps(vm: VM, disk: str = "b") -> list[str]:
    (node,) = (one for one in vm.observer.look("query-named-block-nodes") if one["node-name"] == f"{disk}-node")
    return sorted(bitmap["name"] for bitmap in node.get("dirty-bitmaps", []))


def tidy(vm: VM) -> None:
    """Nothing is there but what is listed: no job, node, file or bitmap."""
    assert vm.observer.execute("query-jobs") == []
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node"}
    entries = listed(vm) if (place(vm) / "chain.json").exists() else []
    files = {image["file"] for entry in entries for image in entry["disks"].values()}
    there = {str(path.relative_to(place(vm))) for path in place(vm).rglob("*") if path.is_file()}
    assert there - {"chain.json"} == files
    chained = [entry for entry in entries if entry["level"] != "copy"]
    bases = [*chained[-1:], *[entry for entry in chained if entry["level"] == "full"][-1:]]
    for disk in "ab":
        assert set(bitmaps(vm, disk)) == {base["disks"][disk]["bitmap"] for base in bases if disk in base["disks"]}


def test_full_and_incremental(life: Lifecycle) -> None:
    vm = life.vm
    foretold = backup(vm, check=True, diff=True)
    assert not place(vm).exists() and bitmaps(vm) == []
    done = backup(vm, diff=True)
    assert done["commands"] == foretold["commands"] and done["diff"] == foretold["diff"]
    assert (done["backup"]["level"], done["backup"]["why"]) == ("full", "there is no full backup yet")
    assert "a is of format raw and keeps no bitmap" in " ".join(done["warnings"])
    assert (place(vm) / "chain.json").stat().st_mode & 0o777 == 0o600
    is_good(vm)
    for number in range(2, 7):
        write(vm, number, f"{number * 512}k", "64k")
        foretold = backup(vm, check=True, diff=True, verify=True)
        assert foretold["backup"]["number"] == number and len(listed(vm)) == number - 1
        done = backup(vm, diff=True, verify=True)
        assert done["commands"] == foretold["commands"] and done["diff"] == foretold["diff"]
        told = done["backup"]
        assert told["level"] == "incremental" and told["disks"]["b"]["dirty"] == 65536
        assert told["disks"]["b"]["written"] == os.stat(told["disks"]["b"]["path"]).st_blocks * 512
        is_good(vm)
        tidy(vm)
    life.same(name="daily", path=str(place(vm)), every="1h")
    shutil.move(place(vm), f"{place(vm)}.moved")  # all of it: images stand on each other by their bare names
    shutil.move(f"{place(vm)}.moved", place(vm))
    is_good(vm)


def why(vm: VM, *words: str, level: str = "full", **options: Any) -> None:
    """The next backup is of this level, for this reason; it is good, and the one after it is incremental again."""
    done = backup(vm, **options)["backup"]
    assert done["level"] == level, done["why"]
    for word in words:
        assert word in done["why"], done["why"]
    is_good(vm)
    tidy(vm)
    assert backup(vm)["backup"]["level"] == "incremental"
    is_good(vm)


def set_aside(vm: VM, bitmap: str, how: str) -> None:
    vm.observer.execute(f"block-dirty-bitmap-{how}", node="b-node", name=bitmap)


def test_each_reason_for_a_full_backup(life: Lifecycle, start_vm: Callable[..., VM]) -> None:
    vm = life.vm
    write(vm, 1)
    why(vm, "there is no full backup yet")
    set_aside(vm, bitmaps(vm)[0], "remove")
    assert backup(vm)["backup"]["level"] == "incremental"  # of the two bitmaps the other was the last one's
    set_aside(vm, bitmaps(vm)[-1], "remove")
    why(vm, "b does not have the bitmap of backup 3 any more", "another image was put")
    set_aside(vm, bitmaps(vm)[-1], "disable")
    life.refused(
        "a backup of level incremental is not possible",
        "was disabled",
        name="daily",
        path=str(place(vm)),
        level="incremental",
    )
    why(vm, "the bitmap of b was disabled")
    vm.observer.execute("block_resize", node_name="b-node", size=SIZE + (1 << 20))
    why(vm, f"b has grown from {SIZE} to {SIZE + (1 << 20)} bytes")
    assert "backup 9 is of a, b, and this one of a" in backup(vm, disks=["a"])["backup"]["why"]
    why(vm, "of a, and this one of a, b")
    (place(vm) / "a" / f"{listed(vm)[-2]['number']}-full.qcow2").unlink()
    done = backup(vm)["backup"]
    assert done["level"] == "full" and "is not there any more" in done["why"]
    run_module(vm, "qemu_disk_snapshot", name="s1", disks=["b"])
    assert (
        "b is on" in backup(vm, check=True)["backup"]["why"] and "b@s1.qcow2" in backup(vm, check=True)["backup"]["why"]
    )
    run_module(vm, "qemu_disk_snapshot", name="s1", disks=["b"], state="absent")
    assert backup(vm)["backup"]["level"] == "incremental"
    is_good(vm)


def test_a_virtual_machine_that_ends_or_is_killed(vm: VM, start_vm: Callable[..., VM]) -> None:
    """What is in an image is known again, unless QEMU was killed; what is in memory is not."""
    for disks, ends, level, word in (
        ("b", ["quit"], "incremental", "bitmaps of backup 1 are good"),
        ("b", ["kill"], "full", "b does not have the bitmap of backup 2 any more: QEMU was killed"),
        ("b", ["quit", "kill"], "full", "the bitmap of b is inconsistent: QEMU was killed"),
        ("ab", [], "full", "backup 4 is of b"),
        ("ab", ["quit"], "full", "a does not have the bitmap of backup 5 any more: its format keeps none"),
    ):
        if not listed_or_none(vm):
            backup(vm, disks=["b"])
        write(vm, len(listed(vm)) + 10, "1M", "64k")
        for end in ends:
            ended(vm, end)
            vm.start()
            plug(vm, new=False)
        done = backup(vm, disks=list(disks))["backup"]
        assert (done["level"], word in done["why"]) == (level, True), done["why"]
        is_good(vm, disks=disks)
    tidy(vm)


def ended(vm: VM, how: str) -> None:
    if how == "quit":
        vm.observer.execute("quit")
    else:
        vm.kill()
    vm.wait_exit()


def listed_or_none(vm: VM) -> Any:
    return (place(vm) / "chain.json").exists() and listed(vm)


def test_levels(life: Lifecycle) -> None:
    vm = life.vm
    where: dict[str, Any] = {"name": "daily", "path": str(place(life.vm))}
    for level in ("incremental", "differential"):
        life.refused(f"of level {level} is not possible", "there is no full backup yet", level=level, **where)
    for number, level in enumerate(
        ("full", "incremental", "differential", "copy", "incremental", "differential"), start=1
    ):
        write(vm, number, f"{number}M", "64k")
        done = backup(vm, level=level, compress=level == "copy", speed="1G")["backup"]
        backing = {2: 1, 3: 1, 5: 3, 6: 1}.get(number)
        assert (done["level"], done["why"]) == (level, "it was asked for")
        assert (done["disks"]["b"]["backing"] or "").rsplit("/", 1)[-1].split("-")[0] == str(backing or "")
        is_good(vm)
        tidy(vm)
    assert backup(vm, check=True, every="1h")["changed"] is False
    for level, changed in (("full", False), ("copy", False), ("differential", False)):
        assert backup(vm, check=True, level=level, every="1h")["changed"] is changed
    young = json.loads((place(vm) / "chain.json").read_text())
    for entry in young["backups"]:
        entry["time"] = "2020-01-01T00:00:00Z" if entry["level"] == "full" else entry["time"]
    (place(vm) / "chain.json").write_text(json.dumps(young))
    assert backup(vm, check=True, level="full", every="1h")["changed"]
    assert not backup(vm, check=True, every="1h")["changed"]


def test_bad_input(life: Lifecycle, tmp_path: Path) -> None:
    vm = life.vm
    where: dict[str, Any] = {"path": str(place(life.vm))}
    for name in ("", "..", "a/b", "-x", "x" * 65):
        life.refused("is not a valid name", name=name, **where)
    life.refused("'here' is not an absolute path", name="daily", path="here")
    life.refused("there is no directory", name="daily", path=f"{tmp_path}/none/bk")
    life.refused("there is no disk 'c'; there are: a, b", name="daily", disks=["c"], **where)
    life.refused("there is no disk 'c'", name="daily", exclude=["c"], **where)
    life.refused("there is no disk to back up", name="daily", exclude=["a", "b"], **where)
    life.refused("disks: the list is empty", name="daily", disks=[], **where)
    life.refused("every: 'often' is not a valid period", name="daily", every="often", **where)
    life.refused("speed: ", name="daily", speed="fast", **where)
    life.refused("there is no program", name="daily", qemu_img="no-such-img", **where)
    (tmp_path / "data").write_text("mine")
    life.refused("has no chain.json, and data is in it", name="daily", path=str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path)
    life.refused("a symbolic link", name="daily", path=f"{tmp_path}/link")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    life.refused("can write to", "give it to the user", name="daily", path=str(open_to_all))
    vm.observer.execute("blockdev-add", node_name="t", driver="file", filename=vm.image("t.img", str(SIZE)))
    vm.observer.execute("blockdev-mirror", job_id="m", device="b-node", target="t", sync="full")
    vm.observer.wait_event("BLOCK_JOB_READY", device="m")
    life.refused("block job m works on b", name="daily", **where)
    assert not place(vm).exists()


def test_a_directory_of_another_chain_or_another_virtual_machine(vm: VM, start_vm: Callable[..., VM]) -> None:
    backup(vm)
    with pytest.raises(ModuleFailed, match="has the backups 'daily', not 'weekly'"):
        backup(vm, name="weekly")
    other = plug(start_vm(scsi=True, name="other"))
    with pytest.raises(ModuleFailed, match=r"of another virtual machine \(name bed; this one's is other\)"):
        backup(other, path=str(place(vm)))
    shutil.copytree(place(vm), f"{place(vm)}.copy")
    levels = []
    for number in range(1, 3):  # each takes the other's bitmaps away, and none takes one for its own
        for path in (place(vm), Path(f"{place(vm)}.copy")):
            write(vm, number, f"{number}M", "64k")
            told = backup(vm, path=str(path))["backup"]
            levels.append(told["level"])
            same(told["disks"]["b"]["path"], f"{vm.directory}/b.img", "qcow2")
    assert levels == ["incremental", "incremental", "full", "full"]


def test_a_guest_that_can_not_be_thawed(vm: VM, tmp_path: Path) -> None:
    """The task fails, and nothing of the backup is left. The next run thaws the guest and takes one."""
    thaw = "guest-fsfreeze-thaw"
    with FakeAgent(tmp_path / "qga", errors={thaw: "not now"}) as agent:
        with pytest.raises(ModuleFailed, match="may still be frozen"):
            backup(vm, quiesce={"agent": agent.path})
        assert not place(vm).exists() and vm.observer.execute("query-jobs") == [] and bitmaps(vm) == []
        agent.errors.clear()
        backup(vm, quiesce={"agent": agent.path})
        assert not agent.frozen
        done = backup(vm, quiesce={"agent": agent.path})["backup"]
        assert done["quiesced"] and done["frozen_ms"] >= 0 and listed(vm)[-1]["quiesced"]
    is_good(vm)
    tidy(vm)


def test_a_backup_of_which_nothing_could_be_frozen(vm: VM, tmp_path: Path) -> None:
    with FakeAgent(tmp_path / "qga", answers={"guest-fsfreeze-freeze": 0}) as agent:
        with pytest.raises(ModuleFailed, match="no file system that its agent could freeze"):
            backup(vm, quiesce={"agent": agent.path})
        done = backup(vm, quiesce={"agent": agent.path, "required": False})["backup"]
        assert not done["quiesced"] and not agent.frozen
    tidy(vm)


@pytest.mark.parametrize("level", ["full", "incremental"])
def test_killed_at_any_step(vm: VM, tmp_path: Path, level: str) -> None:
    step = 0
    if level == "incremental":
        backup(vm)
    with FakeAgent(tmp_path / "qga") as agent:
        quiesce = {"agent": agent.path}
        while killed_before(step, partial(backup, vm, quiesce=quiesce)):
            write(vm, step + 1, f"{step * 64}k", "64k")
            if step % 2:  # what it has left goes, too, where no backup is due
                backup(vm, quiesce=quiesce, every="1h")
                if listed_or_none(vm):
                    tidy(vm)
            done = backup(vm, quiesce=quiesce)
            assert not agent.frozen
            is_good(vm)
            tidy(vm)
            if level == "full":
                shutil.rmtree(place(vm))
            else:
                assert done["backup"]["level"] == "incremental", (step, done["backup"]["why"])
            step += 1
    assert step > 12


def test_killed_while_it_copies(vm: VM) -> None:
    """The job goes on. The next run ends it, and begins anew; nothing that was written is missed."""
    write(vm, 1, size="8M")
    backup(vm)
    write(vm, 2, size="8M")
    for number in range(2):
        task = forked(partial(backup, vm, speed="64K"))
        going(vm)
        kill(task)
        write(vm, 3 + number, "1M")
    done = backup(vm)["backup"]
    assert (done["level"], done["number"], done["disks"]["b"]["dirty"]) == ("incremental", 2, SIZE)
    is_good(vm)
    tidy(vm)


def going(vm: VM) -> None:
    until(lambda: len(vm.observer.execute("query-jobs")) >= 2)


def in_the_middle(vm: VM, do: Callable[[], None], **options: Any) -> dict[str, Any]:
    """Something happens while the jobs of a slow backup go on; how it ends."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(backup(vm, speed="64K", **options))
        except ModuleFailed as failed:
            result.append(failed.result)

    thread = threading.Thread(target=run)
    thread.start()
    going(vm)
    do()
    thread.join()
    found: dict[str, Any] = result[0]
    return found


@pytest.mark.parametrize("before", [0, 1])
def test_qemu_is_killed_while_it_copies(vm: VM, before: int) -> None:
    """Images stay, which nobody knows to be unused; and the list, without which the next run could not tell whose they are."""
    write(vm, 1, size="8M")
    for _number in range(before):
        backup(vm)
        write(vm, 2, size="8M")
    told = in_the_middle(vm, vm.kill)
    assert "lost QEMU" in told["msg"] and str(place(vm)) not in str(told.get("rolled_back"))
    assert len(listed(vm)) == before
    vm.wait_exit()
    vm.start()
    plug(vm, new=False)
    done = backup(vm, exclude=["a"])["backup"]
    assert done["level"] == "full"
    is_good(vm, disks="b")
    assert {path.name for path in place(vm).rglob("*.qcow2*")} == {f"{one + 1}-full.qcow2" for one in range(before + 1)}


def test_a_job_is_cancelled_by_another_tool_or_the_time_is_up(vm: VM) -> None:
    write(vm, 1, size="8M")
    backup(vm)
    write(vm, 2, size="8M")
    told = in_the_middle(vm, partial(vm.observer.execute, "job-cancel", id=job_id("daily", "b")))
    assert "backup of b: Operation canceled" in told["msg"] and told["rolled_back"] and "not_rolled_back" not in told
    tidy(vm)
    with pytest.raises(ModuleFailed, match="not done within 8 s, and given up"):
        backup(vm, speed="64K", timeout=8)
    tidy(vm)
    assert backup(vm)["backup"]["level"] == "incremental"
    is_good(vm)


@pytest.mark.parametrize("verify", [False, True])
def test_an_image_whose_header_is_written_over_while_it_is_copied(vm: VM, tmp_path: Path, verify: bool) -> None:
    """As the user that QEMU runs as could: what the header names is not opened, and the backup is not listed."""
    write(vm, 1, size="8M")
    os.mkfifo(tmp_path / "fifo")  # which hangs who opens it

    def meddle() -> None:
        with (place(vm) / "b" / "1-full.qcow2").open("r+b") as image:
            name = os.fsencode(tmp_path / "fifo")
            image.seek(0x200)
            image.write(name)
            image.seek(8)
            image.write(struct.pack(">QI", 0x200, len(name)))
        for disk in "ab":
            vm.observer.execute("block-job-set-speed", device=job_id("daily", disk), speed=0)

    told = in_the_middle(vm, meddle, verify=verify, timeout=30)
    assert "something else has written it" in told["msg"] and "not_rolled_back" not in told
    assert not place(vm).exists() and bitmaps(vm) == []


def test_two_at_once(start_vm: Callable[..., VM]) -> None:
    """By another monitor of the same machine."""
    second = ["-chardev", "socket,id=second,path=second,server=on,wait=off", "-mon", "chardev=second,mode=control"]
    vm = plug(start_vm(scsi=True, args=second))
    write(vm, 1, size="2M")
    seen: list[str] = []

    def again() -> None:
        for other in (str(place(vm)), f"{place(vm)}.other"):
            with pytest.raises(ModuleFailed) as failed:
                run_module(f"{vm.directory}/second", "qemu_backup", name="daily", path=other)
            seen.append(failed.value.result["msg"])
        for disk in "ab":
            vm.observer.execute("block-job-set-speed", device=job_id("daily", disk), speed=0)

    assert in_the_middle(vm, again)["changed"]
    assert "another task makes a backup" in seen[0] and "in another directory" in seen[1]
    is_good(vm)
    tidy(vm)


def pause(vm: VM) -> None:
    vm.observer.execute("stop")


def migrate_away(vm: VM) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{vm.directory}/away")
        server.listen(1)
        vm.observer.execute("migrate", uri=f"unix:{vm.directory}/away")
        client = server.accept()[0]
        while client.recv(1 << 20):
            pass
    until(lambda: vm.observer.status() == "postmigrate")


def lay_over(vm: VM) -> None:
    for disk in "ab":
        overlay = {"snapshot-file": f"{vm.directory}/{disk}.over", "snapshot-node-name": f"{disk}-over"}
        vm.observer.execute("blockdev-snapshot-sync", **{"node-name": f"{disk}-node"}, **overlay)
    write(vm, 9)


@pytest.mark.parametrize("fleece", [False, True])
@pytest.mark.parametrize(
    ("meddle", "status", "words"),
    [
        (pause, "paused", ""),
        (migrate_away, "postmigrate", "nactive (node )?'|the virtual machine is postmigrate"),
        (lay_over, "running", "a was on a-node, and is not any more|read-only or inactive node"),
    ],
)
def test_another_tool_before_the_copy_begins(
    vm: VM, tmp_path: Path, meddle: Callable[[VM], None], status: str, words: str, fleece: bool
) -> None:
    """A guest that somebody stops or migrates away while images are made does not run on here; no stale image is listed."""
    vm.observer.execute("cont")
    write(vm, 1)
    tool = tmp_path / "qemu-img"
    tool.write_text(
        f'#!/bin/sh\ntouch {tmp_path}/in; while [ ! -e {tmp_path}/on ]; do sleep 0.05; done\nexec {shutil.which("qemu-img")} "$@"\n'
    )
    tool.chmod(0o755)
    told: list[dict[str, Any]] = []
    task = threading.Thread(
        target=lambda: told.append(result(vm, qemu_img=str(tool), **({"fleece": str(tmp_path)} if fleece else {})))
    )
    task.start()
    until((tmp_path / "in").exists)
    meddle(vm)
    (tmp_path / "on").touch()
    task.join()
    assert vm.observer.status() == status
    assert vm.observer.execute("query-jobs") == [] and sorted(os.listdir(tmp_path)) == ["in", "on", "qemu-img"]
    if words:
        assert re.search(words, told[0]["msg"]) and "not_rolled_back" not in told[0] and not place(vm).exists()
    else:
        assert told[0]["changed"] and "msg" not in told[0]


def only_bitmaps_stay(told: dict[str, Any]) -> None:
    """QEMU has made the image below the overlay read-only."""
    left = told.get("not_rolled_back", [])
    assert all(re.search("readonly and cannot be modified|no write access", one) for one in left), left


@pytest.mark.parametrize("at", ["qom-set", "blockdev-backup"])
def test_an_overlay_comes_while_the_filters_are_put_in(vm: VM, tmp_path: Path, at: str) -> None:
    """What was written to it before they were in is in no bitmap; later it is, or the filter has kept what was there."""
    vm.observer.execute("cont")
    write(vm, 1)
    backup(vm)
    there = vm.observer.nodes()
    options: dict[str, Any] = {"name": "daily", "path": str(place(vm)), "fleece": str(tmp_path)}
    with Proxy(vm.qmp, partial(lay_over, vm), at) as proxy:
        if at == "qom-set":
            with pytest.raises(
                ModuleFailed, match=r"[ab] was on [ab]-node, and is not any more: run the task again"
            ) as failed:
                run_module(proxy.address, "qemu_backup", **options)
            only_bitmaps_stay(failed.value.result)
            assert len(listed(vm)) == 1
        else:
            assert run_module(proxy.address, "qemu_backup", **options)["backup"]["level"] == "incremental"
            is_good(vm, 2)  # as the disks were before the overlay
    assert proxy.struck and os.listdir(tmp_path) == [] and vm.observer.execute("query-jobs") == []
    left = [node for node in vm.observer.nodes() if node not in there and not node.startswith("#")]
    assert sorted(left) == ["a-over", "b-over"]
    assert backup(vm)["backup"]["level"] == "full"
    assert vm.observer.status() == "running"


def test_an_overlay_comes_when_an_older_bitmap_is_to_go(vm: VM, tmp_path: Path) -> None:
    """That stays in the image below, which QEMU has made read-only."""
    vm.observer.execute("cont")
    write(vm, 1)
    for _turn in range(2):
        backup(vm)
        write(vm, 2)
    options: dict[str, Any] = {"name": "daily", "path": str(place(vm)), "fleece": str(tmp_path)}
    with Proxy(vm.qmp, partial(lay_over, vm), "blockdev-backup") as proxy:
        assert run_module(proxy.address, "qemu_backup", **options)["backup"]["level"] == "incremental"
        is_good(vm, 3)
    assert proxy.struck and os.listdir(tmp_path) == [] and backup(vm)["backup"]["level"] == "full"


@pytest.mark.parametrize("reset", [True, False])
def test_another_tool_while_the_task_has_stopped_the_guest(vm: VM, tmp_path: Path, reset: bool) -> None:
    """It goes on after a reset, too. One that was let run between two disks is not backed up as of two moments."""
    vm.observer.execute("cont")
    write(vm, 1)

    def at_the_second_filter() -> None:
        vm.observer.execute("system_reset" if reset else "cont")
        if not reset:
            vm.observer.execute("stop")

    options: dict[str, Any] = {"name": "daily", "path": str(place(vm)), "fleece": str(tmp_path)}
    with Proxy(vm.qmp, at_the_second_filter, "qom-set", spare=1) as proxy:
        if reset:
            assert run_module(proxy.address, "qemu_backup", **options)["changed"]
        else:
            with pytest.raises(ModuleFailed, match="another tool let the guest run before") as failed:
                run_module(proxy.address, "qemu_backup", **options)
            assert "not_rolled_back" not in failed.value.result and not place(vm).exists()
    assert proxy.struck and vm.observer.status() == "running" and os.listdir(tmp_path) == []
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node"}


def result(vm: VM, **options: Any) -> dict[str, Any]:
    try:
        return backup(vm, **options)
    except ModuleFailed as failed:
        return failed.result


def test_absent_refuses_what_was_backed_up_meanwhile(
    start_vm: Callable[..., VM], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = ["-chardev", "socket,id=second,path=second,server=on,wait=off", "-mon", "chardev=second,mode=control"]
    vm = plug(start_vm(scsi=True, args=second))
    backup(vm)
    follow = Absent.follow

    def after_another(*arguments: Any) -> Any:
        run_module(f"{vm.directory}/second", "qemu_backup", name="daily", path=str(place(vm)), level="full")
        return follow(*arguments)

    monkeypatch.setattr(Absent, "follow", after_another)
    with pytest.raises(ModuleFailed, match="another task has made a backup"):
        backup(vm, state="absent", remove_data=True)
    assert [one["number"] for one in listed(vm)] == [1, 2]
    is_good(vm)


def test_keep_and_absent(life: Lifecycle) -> None:
    vm = life.vm
    where: dict[str, Any] = {"name": "daily", "path": str(place(life.vm))}
    for number in range(1, 8):
        write(vm, number, f"{number}M", "64k", disks="b")
        foretold = backup(vm, check=True, diff=True, level="full" if number % 3 == 1 else "auto", keep={"full": 2})
        done = backup(vm, diff=True, level="full" if number % 3 == 1 else "auto", keep={"full": 2})
        assert done["commands"] == foretold["commands"] and done["diff"] == foretold["diff"]
        assert [one["number"] for one in listed(vm)] == list(range(4 if number == 7 else 1, number + 1))
        is_good(vm)
        tidy(vm)
    life.step(every="1h", keep={"full": 1}, **where)
    assert [one["number"] for one in listed(vm)] == [7]
    life.step(state="absent", **where)
    assert bitmaps(vm, "a") == bitmaps(vm, "b") == [] and (place(vm) / "b" / "7-full.qcow2").exists()
    assert "does not have the bitmap of backup 7" in backup(vm, check=True)["backup"]["why"]
    backup(vm)
    life.step(state="absent", remove_data=True, **where)
    assert bitmaps(vm, "a") == bitmaps(vm, "b") == [] and not place(vm).exists()


def test_absent_after_a_killed_run(vm: VM) -> None:
    write(vm, 1, size="8M")
    task = forked(partial(backup, vm, speed="64K"))
    going(vm)
    kill(task)
    backup(vm, state="absent", remove_data=True)
    assert not place(vm).exists()
    assert vm.observer.execute("query-jobs") == [] and bitmaps(vm, "a") == bitmaps(vm, "b") == []
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node"}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_no_space_left(vm: VM, small: Path) -> None:
    write(vm, 1, size="8M")
    with pytest.raises(ModuleFailed, match="Make room, or set force=true"):
        backup(vm, path=str(small))
    with pytest.raises(ModuleFailed, match="No space left") as failed:
        backup(vm, path=str(small), force=True)
    assert "not_rolled_back" not in failed.value.result and os.listdir(small) == []
    assert vm.observer.execute("query-jobs") == [] and bitmaps(vm) == []
    subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
    backup(vm, path=str(small))
    same(f"{small}/b/1-full.qcow2", f"{vm.directory}/b.img", "qcow2")


# -- fleece ------------------------------------------------------------------------------------------------------------


def test_fleece(vm: VM, tmp_path: Path) -> None:
    """What is written while it copies is not in it; scratch images and filters are gone afterwards."""
    vm.observer.execute("cont")
    write(vm, 1, size="8M")
    for number in range(1, 4):
        truths = {disk: shutil.copy(f"{vm.directory}/{disk}.img", f"{tmp_path}/{disk}.truth") for disk in "ab"}
        foretold = backup(vm, check=True, diff=True, fleece=str(tmp_path), speed="64K")

        def meddle(pattern: int = number + 1) -> None:
            write(vm, pattern, "1M", "3M")
            for disk in "ab":
                vm.observer.execute("block-job-set-speed", device=job_id("daily", disk), speed=0)

        done = in_the_middle(vm, meddle, fleece=str(tmp_path), diff=True)
        assert [one for one in done["commands"] if one not in foretold["commands"]][1:] == [], (
            "the speed is in the transaction"
        )
        assert done["backup"]["level"] == ("full" if number == 1 else "incremental")
        for disk, truth in truths.items():
            same(done["backup"]["disks"][disk]["path"], truth, "raw" if disk == "a" else "qcow2")
        assert sorted(os.listdir(tmp_path)) == ["a.truth", "b.truth"] and vm.observer.status() == "running"
        tidy(vm)
    assert backup(vm)["backup"]["level"] == "incremental"
    is_good(vm)


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_overlay_comes_below_the_filter(vm: VM, tmp_path: Path, cancelled: bool) -> None:
    """The guest keeps it, however the backup ends, and nothing else is left."""
    vm.observer.execute("cont")
    write(vm, 1, size="8M")

    def meddle() -> None:
        lay_over(vm)
        for disk in "ab":
            if cancelled:
                vm.observer.execute("job-cancel", id=job_id("daily", disk))
            else:
                with contextlib.suppress(ObserverError):  # it may be over
                    vm.observer.execute("block-job-set-speed", device=job_id("daily", disk), speed=0)

    told = in_the_middle(vm, meddle, fleece=str(tmp_path))
    assert ("msg" in told) == cancelled and os.listdir(tmp_path) == []
    only_bitmaps_stay(told)
    over = {"a-over", "b-over"}
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node"} | over
    assert {drive["inserted"]["node-name"] for drive in vm.observer.look("query-block") if "inserted" in drive} == over


def test_two_virtual_machines_with_one_directory_of_scratch_images(
    vm: VM, start_vm: Callable[..., VM], tmp_path: Path
) -> None:
    """And backups of one name: neither takes the other's, and no image that is in use is removed."""
    other = plug(start_vm(scsi=True, name="other"))
    twin = plug(start_vm(scsi=True, name="twin", args=["-name", "bed"]))  # nothing tells it from the first one

    def at_once() -> None:
        there = sorted(os.listdir(tmp_path))
        assert backup(other, fleece=str(tmp_path))["changed"]
        assert sorted(os.listdir(tmp_path)) == there and len(there) == 2
        with pytest.raises(ModuleFailed, match=f"{there[0]} is still in use, and was not removed"):
            backup(twin, fleece=str(tmp_path))
        for disk in "ab":
            vm.observer.execute("block-job-set-speed", device=job_id("daily", disk), speed=0)

    assert in_the_middle(vm, at_once, fleece=str(tmp_path))["changed"]
    assert os.listdir(tmp_path) == []
    is_good(vm)


def test_a_target_without_room_fails_no_write_of_the_guest(vm: VM, small: Path, tmp_path: Path) -> None:
    """With fleece neither the backup's target nor the scratch image does; without it the task says what came of it."""
    vm.observer.execute("cont")
    write(vm, 1, size="8M")
    fleece = tmp_path / "fleece"
    fleece.mkdir()
    for path, scratch in ((small, fleece), (tmp_path / "bk", small)):
        since = len(vm.stderr)
        told = in_the_middle(vm, partial(fill, vm), path=str(path), fleece=str(scratch), force=True)
        assert "backup of" in told["msg"] and "not_rolled_back" not in told
        assert "write failed" not in vm.stderr[since:] and vm.observer.status() == "running"
        assert os.listdir(small) == [] and os.listdir(fleece) == [] and not (tmp_path / "bk").exists()
        assert vm.observer.execute("query-jobs") == [] and bitmaps(vm) == []


def fill(vm: VM) -> None:
    write(vm, 7, "0", "8M")
    for disk in "ab":
        with contextlib.suppress(ObserverError):
            vm.observer.execute("block-job-set-speed", device=job_id("daily", disk), speed=0)


def test_killed_at_any_step_with_fleece(vm: VM, qemu_version: str, tmp_path: Path) -> None:
    """Each QEMU has its share of the steps, which are many."""
    step = VERSIONS.index(qemu_version)
    vm.observer.execute("cont")
    backup(vm)
    while killed_before(step, partial(backup, vm, fleece=str(tmp_path))):
        write(vm, step + 1, f"{step * 64}k", "64k")
        done = backup(vm, **({"fleece": str(tmp_path)} if step % 3 else {}))
        assert done["backup"]["level"] == "incremental", (step, done["backup"]["why"])
        assert vm.observer.status() == "running"
        is_good(vm)
        tidy(vm)
        step += len(VERSIONS)
    assert step > 30
    backup(vm, fleece=str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_the_mark_of_a_guest_that_was_stopped(vm: VM) -> None:
    """The next run lets a guest run that it finds stopped with it. That of a guest which runs it only removes."""
    backup(vm)
    for begin, ends in (("cont", ["blockdev-del"]), ("stop", ["cont", "blockdev-del"])):
        vm.observer.execute(begin)
        vm.observer.execute("blockdev-add", **{"node-name": mark("daily"), "driver": "null-co"})
        done = backup(vm, every="1h")
        assert [command["execute"] for command in done["commands"]] == ends
        assert vm.observer.status() == "running" and mark("daily") not in vm.observer.nodes()


# -- other drives, other users, and a guest ----------------------------------------------------------------------------


def test_drives_of_the_command_line(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    """Their nodes have names that QEMU makes up, and the device of one has no id."""
    first = start_vm()
    images = [first.image(name, str(SIZE), "qcow2") for name in ("c.qcow2", "d.qcow2")]
    drives = [f"if=none,id=drv0,file={images[0]},format=qcow2", f"if=virtio,file={images[1]},format=qcow2"]
    args = ["-drive", drives[0], "-device", "virtio-blk-pci,drive=drv0,id=vb,bus=rp0", "-drive", drives[1]]
    for number, fleece in enumerate((None, tmp_path, None), start=1):
        vm = start_vm(args=args)
        for drive in ("drv0", "virtio0"):
            vm.observer.hmp(f'qemu-io {drive} "write -P {number} {number}M 64k"')
        done = backup(first, socket=vm.qmp, **({"fleece": str(fleece)} if fleece else {}))["backup"]
        assert done["level"] == ("full" if number == 1 else "incremental"), done["why"]
        vm.observer.execute("quit")
        vm.wait_exit()
        for disk, image in zip(("vb", "virtio0"), images):
            same(done["disks"][disk]["path"], image, "qcow2")


def test_a_qemu_of_another_user(start_vm: Callable[..., VM], qemu_version: str) -> None:
    """It gets into the directory, and has no image any more when the backup is done."""
    as_nobody = ["-runas", "nobody"] if qemu_version == "7.2" else ["-run-with", "user=nobody"]
    vm = start_vm(scsi=True, args=as_nobody)
    vm.directory.chmod(0o755)
    plug(vm, owner=pwd.getpwnam("nobody").pw_uid)
    done = backup(vm)["backup"]
    assert (place(vm).stat().st_mode & 0o777, place(vm).stat().st_uid) == (0o710, os.geteuid())
    for disk in "ab":
        found = Path(done["disks"][disk]["path"]).stat()
        assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o600)
    write(vm, 1)
    assert backup(vm)["backup"]["level"] == "incremental"
    is_good(vm)


NUMBERS = """n=0; while [ ! -e /tmp/stop ]; do n=$((n + 1)); for disk in sda sdb; do
printf "%08d" $n | dd of=/dev/$disk bs=512 count=1 seek=$((n % 1000 * 16)) conv=sync,notrunc oflag=direct 2>/dev/null;
printf "%08d" $n | dd of=/dev/$disk bs=512 count=1 seek=16001 conv=sync,notrunc oflag=direct 2>/dev/null; done; done &"""


@pytest.fixture
def guest(live_vm: VM) -> VM:
    for name in "ab":
        disk = {
            "driver": "scsi-hd",
            "bus": "scsi0.0",
            "format": "qcow2",
            "filename": live_vm.image(f"{name}.img", str(SIZE), "qcow2"),
        }
        run_module(live_vm, "qemu_disk", **{"id": name, **disk})  # type: ignore[arg-type]
        live_vm.guest_sees(blk={"sda"} if name == "a" else {"sda", "sdb"})
    return live_vm


def unplug(vm: VM) -> None:
    for name in "ab":
        run_module(vm, "qemu_disk", id=name, state="absent")
    vm.guest_sees(blk=set())


def number_in(image: str) -> int:
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", "read -v 8192512 512", image]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(said.splitlines()[0].split()[-1].strip(".") or 0)


def test_a_guest_that_writes(guest: VM, tmp_path: Path) -> None:
    """A writer puts n on one disk, then on the other. All backups have both of one moment, and the last is what the disks are."""
    guest.run_in_guest(NUMBERS.replace("\n", " "))
    pairs = []
    for number in range(1, 51 if LONG else 7):
        done = backup(guest, **({"fleece": str(tmp_path)} if number % 2 else {}))["backup"]
        assert done["level"] == ("full" if number == 1 else "incremental"), done["why"]
        pairs.append(tuple(number_in(done["disks"][disk]["path"]) for disk in "ab"))
        assert guest.observer.status() == "running"
    print("numbers on both disks:", pairs)
    assert all(one - other in (0, 1) for one, other in pairs) and len(set(pairs)) > 1, pairs
    # so that the backup takes its time
    guest.run_in_guest("for disk in sda sdb; do head -c 1048576 /dev/zero | tr '\\0' x > /dev/$disk; done; sync")
    guest.observer.execute("stop")
    truths = {disk: f"{tmp_path}/{disk}.raw" for disk in "ab"}
    done = in_the_middle_of_copying(guest, truths)["backup"]
    guest.run_in_guest("touch /tmp/stop")
    for disk, truth in truths.items():
        same(done["disks"][disk]["path"], truth, "raw")
    unplug(guest)


def in_the_middle_of_copying(vm: VM, truths: dict[str, str]) -> dict[str, Any]:
    """A backup of a guest that stands still when it begins, and writes while it goes on; what the disks had is kept beside."""
    for disk, truth in truths.items():
        vm.observer.hmp(f'qemu-io -d {disk} "flush"')
        command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", f"{vm.directory}/{disk}.img", truth]
        subprocess.run(command, check=True)

    def go_on() -> None:
        vm.observer.execute("cont")
        vm.run_in_guest("sleep 1")
        for disk in truths:
            with contextlib.suppress(ObserverError):
                vm.observer.execute("block-job-set-speed", device=job_id("daily", disk), speed=0)

    return in_the_middle(vm, go_on)


def test_a_guest_whose_backup_has_no_room_left(guest: VM, small: Path) -> None:
    """QEMU stops it, since its write could not be kept. It goes on, and has lost nothing."""
    fill = "head -c 8388608 /dev/zero | tr '\\0' {} > /dev/{}; sync"
    for disk in ("sda", "sdb"):
        guest.run_in_guest(fill.format("x", disk))

    def fill_up() -> None:
        guest.observer.forget_events()
        line = fill.format("y", "sda") + "; echo wrote $?"
        thread.append(threading.Thread(target=lambda: said.append(guest.run_in_guest(line))))
        thread[0].start()

    said: list[str] = []
    thread: list[threading.Thread] = []
    told = in_the_middle(guest, fill_up, path=str(small), force=True)
    assert "the guest stands still" in told["msg"] or "No space left" in told["msg"]
    thread[0].join()
    assert said == ["wrote 0\n"] and guest.observer.status() == "running"
    assert os.listdir(small) == [] and guest.observer.execute("query-jobs") == []
    assert guest.run_in_guest("head -c 8388608 /dev/sda | tr -d y | wc -c").strip() == "0"
    unplug(guest)
