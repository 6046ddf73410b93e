# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.vm: what it adds to its module qemu_vm, of which test_vm.py has all else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.plays import run_playbook
from support.roles import RUN, SMALL, Roles, image, nothing_is_there
from support.vm import qemu_binary

MIB = 1 << 20


@pytest.fixture
def roles() -> Iterator[Roles]:
    made = Roles()
    yield made
    made.close()


def test_its_life(roles: Roles) -> None:
    has: dict[str, Any] = {
        "disk_size": "8M",
        "user_data": {"password": "hush"},
        "disks": [{"id": "data", "filename": f"{roles.base}/vm1/data", "size": "1M", "bus": "rp0"}],
    }
    assert any(task.changed for task in roles.run(check=True, **has).tasks)
    nothing_is_there(roles)
    assert "hush" not in roles.done(True, **has).output
    assert roles.files() == {"disk.qcow2", "data", "run/seed.iso", *RUN}
    with roles.observer() as observer:
        assert {"disk", "seed", "data", "agent0", "rp0", "rp7"} <= set(observer.devices())
    roles.done(False, **has)
    roles.done(True, state="stopped", **has)
    assert roles.processes() == {}
    roles.done(True, state="absent", remove_data="yes")
    nothing_is_there(roles)


def test_its_module_takes_the_same_variables_of_a_host(roles: Roles) -> None:
    """Templates in them, too, and nothing for what is omitted. What the task itself says counts."""
    disk = {"id": "data", "filename": "{{ vm_directory }}/data", "size": "1M", "bus": "rp0", "serial": "{{ omit }}"}
    has: dict[str, Any] = {"memory": "{{ 2 * 40 }}M", "cpu": "{{ omit }}", "machine": "pc", "disks": [disk]}
    (role,) = [task.result for task in roles.run(check=True, **has).tasks if "commands" in task.result]
    variables = {**roles.small(), **{f"vm_{key}": value for key, value in has.items()}, "vm_machine": "x"}
    task = {"vmm.qemu.qemu_vm": {"variables_prefix": "vm_", "machine": "pc"}}
    play = {"hosts": "all", "gather_facts": False, "vars": variables, "tasks": [task]}
    for here in (True, False):
        run = run_playbook([play], roles.home, check=True, here=here)
        assert run.rc == 0, run.output
        assert run.tasks[-1].result["commands"] == role["commands"]
    assert "80M" in json.dumps(role["commands"]) and '"serial"' not in json.dumps(role["commands"])
    nothing_is_there(roles)


def test_what_else_the_play_says_does_not_count(roles: Roles) -> None:
    """Neither defaults of the module nor variables by the names that are for roles: a disk would go with them."""
    roles.done(True, disk_size="1M")
    gone = {"state": "absent", "remove_data": True}
    private = {f"__vm_{key}": value for key, value in {**gone, "memory": "1G"}.items()}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {**roles.small(), "vm_disk_size": "1M", **private},
        "module_defaults": {"vmm.qemu.qemu_vm": {**gone, "memory": "1G"}, "group/vmm.qemu.qemu": {"name": "vm2"}},
        "roles": ["vmm.qemu.vm"],
    }
    run = run_playbook([play], roles.home, here=True)
    assert run.rc == 0 and not any(task.changed for task in run.tasks), run.output
    assert run.tasks[-1].result["ansible_facts"] == {"vm_restart_required": False}
    assert set(roles.processes()) == {"vm1"} and "disk.qcow2" in roles.files()
    late = run_playbook([play], roles.home, "--start-at-task", "Tell whether it should be restarted", here=True)
    assert late.rc == 0, late.output
    assert late.tasks[-1].result["ansible_facts"] == {"vm_restart_required": None}  # nothing is known of it


def test_a_restart_is_told_and_done_when_allowed(roles: Roles) -> None:
    roles.done(True)
    pid = roles.processes()["vm1"]
    for check in (True, False):
        told = roles.done(False, check=check, memory="96M")
        assert "vm1 runs with other arguments" in told.output
        assert told.tasks[-1].result["ansible_facts"] == {"vm_restart_required": True}
    roles.done(True, check=True, memory="96M", restart_allowed=True)
    assert roles.processes() == {"vm1": pid}
    roles.done(True, memory="96M", restart_allowed="yes")  # as -e has it
    assert roles.processes()["vm1"] != pid
    roles.done(False, memory="96M")


def test_a_changed_seed_asks_for_a_restart_only_with_another_instance_id(roles: Roles) -> None:
    """cloud-init reads a seed once for each."""
    was: dict[str, Any] = {"user_data": {"packages": ["old"]}}
    new: dict[str, Any] = {"user_data": {"packages": ["new"]}}
    unread, other = "vm1 has a new seed, and its guest does not read it", "vm1 runs with other arguments"
    assert unread not in roles.done(True, **was).output
    pid = roles.processes()["vm1"]
    for check in (True, False):
        said = roles.done(True, check=check, **new, restart_allowed=True).output
        assert unread in said and "that is still vm1" in said and other not in said
    assert unread not in roles.done(False, **new, restart_allowed=True).output
    assert roles.processes() == {"vm1": pid}
    new["meta_data"] = {"instance-id": "vm1-second"}
    for changed in (True, False):
        said = roles.done(changed, **new).output
        assert other in said and unread not in said
    assert roles.processes() == {"vm1": pid}
    roles.done(True, **new, restart_allowed=True)
    assert roles.processes()["vm1"] != pid
    said = roles.done(False, **new).output
    assert other not in said and unread not in said


def test_a_disk_stands_on_an_image(roles: Roles) -> None:
    base, checksum = image(roles)
    before = Path(base).read_bytes()
    # a word of the user data is hidden nowhere else
    words = {"user_data": {"hostname": "vm1", "count": 2, "name": "qcow2", "directory": ".images"}}
    fetched = {"image": f"file://{base}", "image_checksum": checksum, "disk_size": "16M", **words}
    nothing_yet = roles.done(True, check=True, **fetched)
    nothing_is_there(roles, "base.qcow2")
    real = roles.done(True, **fetched)
    foretold, sent = (
        next(task.result["commands"] for task in run.tasks if "commands" in task.result) for run in (nothing_yet, real)
    )
    assert foretold == sent and foretold[0]["action"] == "fetch"
    (kept,) = (roles.base / ".images").iterdir()
    assert kept.read_bytes() == before
    roles.done(True, name="vm2", image=base, image_checksum=checksum)
    for name, size, stands_on in (("vm1", 16, str(kept)), ("vm2", 8, base)):
        with roles.observer(name) as observer:
            disk = next(one for one in observer.execute("query-block") if "disk" in one["qdev"])
        assert disk["inserted"]["image"]["virtual-size"] == size * MIB
        assert disk["inserted"]["backing_file"] == stands_on
    roles.done(False, name="vm2", image=base, image_checksum="sha256:" + "0" * 64)  # it has its disk
    assert Path(base).read_bytes() == before


def test_what_a_disk_stands_on_never_changes(roles: Roles) -> None:
    """A newer image under the URL of an older one, another URL with the same last part, and a list of checksums."""
    base, checksum = image(roles)
    published = roles.base / "published"
    others = roles.base / "other"
    sums = roles.base / "SUMS"
    for directory in (published, others):
        directory.mkdir()
    (published / "disk.qcow2").write_bytes(Path(base).read_bytes())
    sums.write_text(f"{checksum.removeprefix('sha256:')}  disk.qcow2\n")
    first = {"image": f"file://{published}/disk.qcow2"}
    listed = {**first, "image_checksum": f"sha256:file://{sums}"}
    roles.done(True, **first)
    roles.done(True, name="vm2", **listed)
    kept = {path: path.read_bytes() for path in (roles.base / ".images").iterdir()}
    assert set(kept.values()) == {Path(base).read_bytes()} and len(kept) == 2

    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(others / "disk.qcow2"), "16M"], check=True)
    newer = (others / "disk.qcow2").read_bytes()
    (published / "disk.qcow2").write_bytes(newer)
    sums.write_text(f"{hashlib.sha256(newer).hexdigest()}  disk.qcow2\n")
    later = time.time() + 3600
    os.utime(published / "disk.qcow2", (later, later))
    for number, variables in enumerate((first, listed, {"image": f"file://{others}/disk.qcow2"}), 3):
        roles.done(True, name=f"vm{number}", **variables)
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(list((roles.base / ".images").iterdir())) == 3
    (fetched,) = [path for path in (roles.base / ".images").iterdir() if path not in kept]
    assert fetched.read_bytes() == newer
    said = roles.refused(name="vm6", image=f"file://{base}", image_checksum=checksum.removeprefix("sha256:"))
    assert "write it as sha256:HEX" in said


@pytest.mark.parametrize("checksum", ["sha256:0123...", "sha256:file:///nonexistent/SUMS"])
def test_a_checksum_that_could_not_be_checked(roles: Roles, checksum: str) -> None:
    base, _checksum = image(roles)
    assert "write it as sha256:HEX" in roles.refused(image=base, image_checksum=checksum)
    nothing_is_there(roles, "base.qcow2")


@pytest.mark.parametrize("where", ["url", "path"])
def test_a_wrong_checksum(roles: Roles, where: str) -> None:
    base, checksum = image(roles)
    wrong = "sha256:" + "0" * 64
    said = roles.refused(image=f"file://{base}" if where == "url" else base, image_checksum=wrong)
    assert "0" * 64 in said and checksum.removeprefix("sha256:") in said
    nothing_is_there(roles, "base.qcow2", *({".images"} if where == "url" else ()))
    assert where == "path" or list((roles.base / ".images").iterdir()) == []


def test_what_a_task_fetches_with_until(roles: Roles) -> None:
    """It runs again for all of its machines, which can be a text. A directory that is there keeps its mode."""
    base, _checksum = image(roles)
    private = roles.base / "private"
    private.mkdir(0o700)
    machines = {
        "a": {"directory": f"{roles.base}/a", "image": f"file://{base}"},
        "b": {"directory": f"{roles.base}/b", "image": "/nonexistent/b.qcow2"},
        "c": {"directory": f"{roles.base}/c", "image": "http://ada:pass%20word@127.0.0.1:9/c.qcow2"},
    }
    call = {key.removeprefix("vm_"): value for key, value in SMALL.items()}
    call.update(user="", image_directory=str(private), binary=str(qemu_binary("7.2")), machines=json.dumps(machines))
    task = {"vmm.qemu.qemu_vm": call, "register": "done", "until": "done is succeeded", "retries": 1, "delay": 0}
    run = run_playbook([{"hosts": "all", "gather_facts": False, "tasks": [task]}], roles.home, "-vv", here=True)
    last = run.tasks[-1]
    assert last.failed and set(last.result["machines"]) == {"a", "b", "c"}
    assert last.result["msg"].startswith("0 changed, 1 unchanged, 2 failed: ")
    assert "could not be fetched" in last.result["machines"]["c"]["msg"]
    assert "pass%20word" not in run.output
    assert private.stat().st_mode & 0o777 == 0o700 and len(list(private.iterdir())) == 1


def test_images_are_fetched_for_the_machines_that_lack_one(roles: Roles) -> None:
    """One task over four: a new disk on a fetched image twice, an image that is nowhere, and none."""
    base, checksum = image(roles)
    shared: dict[str, Any] = {"user": "", "image_directory": f"{roles.base}/.images", "binary": str(qemu_binary("7.2"))}
    shared.update({key.removeprefix("vm_"): value for key, value in SMALL.items()})
    machines: dict[str, dict[str, Any]] = {
        "a": {"image": f"file://{base}", "image_checksum": checksum},
        "b": {"image": "file:///nonexistent/b.qcow2"},
        "c": {},
        "d": {"image": f"file://{base}", "image_checksum": checksum},
    }
    for name, own in machines.items():
        own["directory"] = str(roles.base / name)
    play = [{"hosts": "all", "gather_facts": False, "tasks": [{"vmm.qemu.qemu_vm": {**shared, "machines": machines}}]}]

    foretold = run_playbook(play, roles.home, check=True, here=True).tasks[0]
    nothing_is_there(roles, "base.qcow2")
    assert not foretold.failed and {one["commands"][0]["action"] for one in foretold.result["machines"].values()} == {
        "fetch",
        "mkdir",
    }
    first = run_playbook(play, roles.home, diff=True, here=True).tasks[0]
    assert first.failed and "b: image: file:///nonexistent/b.qcow2 could not be fetched" in first.result["msg"]
    assert first.result["msg"].startswith("3 changed, 0 unchanged, 1 failed")
    for name in ("a", "c", "d"):
        assert first.result["machines"][name]["commands"] == foretold.result["machines"][name]["commands"]
    assert set(roles.processes()) == {"a", "c", "d"} and roles.files("b") == set()
    assert set(first.result["diff"]["after"]) == {"a", "c", "d"}
    (kept,) = (roles.base / ".images").iterdir()
    for name in ("a", "d"):
        with roles.observer(name) as observer:
            disk = next(one for one in observer.execute("query-block") if "disk" in one["qdev"])
        assert disk["inserted"]["backing_file"] == str(kept)

    machines["b"]["image"] = f"file://{base}"
    second = run_playbook(play, roles.home, here=True).tasks[0]
    assert not second.failed and second.result["msg"] == "1 changed, 3 unchanged"
    third = run_playbook(play, roles.home, here=True).tasks[0]
    assert not third.changed and third.result["msg"] == "0 changed, 4 unchanged"
