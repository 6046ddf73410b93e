# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.migrate, between two hosts that are both this machine. A guest that moves is in extensions/molecule."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp.holder import is_heard
from support.collection import REPO
from support.observer import Observer
from support.plays import PlayRun, run_playbook
from support.roles import SMALL, Roles
from support.timing import until
from support.vm import qemu_binary


class Hosts(Roles):
    """Two hosts, a and b, with a directory each, and one below which both have the disk of the virtual machine g."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self.own: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
        for name in ("a", "b", "shared"):
            (self.base / name).mkdir()
        self.variables: dict[str, Any] = {
            **SMALL,
            "ansible_connection": "local",
            "vm_name": "g",
            "vm_directory": f"{self.base}/{{{{ inventory_hostname }}}}/g",
            "vm_user": "",
            "vm_binary": str(qemu_binary(version)),
            "vm_disk": f"{self.base}/shared/disk.qcow2",
            "vm_disk_size": "8M",
            "migrate_from": "a",
            "migrate_to": "b",
            "migrate_uri": f"unix:{self.base}/move",
            "migrate_timeout": 120,
        }

    def play(self, role: str, hosts: str, **extra: Any) -> PlayRun:
        """A role on one host or both, with the variables of the inventory; `extra` are given with -e."""
        inventory = self.home / "inventory.json"
        inventory.write_text(json.dumps({"all": {"vars": self.variables, "hosts": self.own}}))
        play = [{"hosts": hosts, "gather_facts": False, "roles": [{"role": f"vmm.qemu.{role}"}]}]
        limit = ("-i", str(inventory), "--limit", "a,b")
        given = {"ansible_connection": None, **extra}  # it is the inventory's
        return run_playbook(play, self.home, *limit, variables=given, here=True, environment=self.environment)

    def make(self, host: str = "a", **extra: Any) -> None:
        """The virtual machine, at a, by the module: what the role vm makes of these variables, without a play."""
        given = {**self.variables, **self.own[host], **extra}
        options = {name.removeprefix("vm_"): value for name, value in given.items() if name.startswith("vm_")}
        run = self.by_module(json.loads(json.dumps(options).replace("{{ inventory_hostname }}", host)))
        assert run.rc == 0, run.output

    def cut(self, host: str, module: str) -> None:
        """Lose the line to a host when this module has done its work there; "" for a line that holds."""
        self.own[host].pop("ansible_connection", None)
        self.environment = {
            "ANSIBLE_CONNECTION_PLUGINS": str(REPO / "tests" / "support" / "connection"),
            "BED_CUT": module,
        }
        if module:
            self.own[host]["ansible_connection"] = "bed_cut"

    def move(self, **extra: Any) -> PlayRun:
        """From a to b."""
        return self.play("migrate", "a:b", **extra)

    def moved(self, **extra: Any) -> None:
        """From a to b, and nothing is left at a."""
        run = self.move(**extra)
        assert run.rc == 0, run.output
        assert set(self.status()) == {"b"} and not (self.base / "a" / "g").exists()

    def fails(self, *words: str, **extra: Any) -> None:
        """From a to b, which fails, says so, and leaves no mark beside the images."""
        run = self.move(**extra)
        assert run.rc != 0 and "Traceback" not in run.output
        said = [str(task.result.get("msg")) for task in run.tasks if task.failed][-1]
        assert all(word in said for word in words), said
        assert not list(self.base.rglob(".vmm-qemu-*"))

    def status(self) -> dict[str, str]:
        """Where there is one, and its run state."""
        found = {}
        for host in ("a", "b"):
            if (self.base / host / "g" / "run" / "monitor").exists():
                with self.observer(f"{host}/g") as observer:
                    found[host] = observer.status()
        return found


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts("7.2")
    made.variables["vm_power"] = "running"
    yield made
    made.close()


@pytest.fixture(params=["7.2", "10.0"])
def both(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """With each QEMU."""
    made = Hosts(request.param)
    made.variables["vm_power"] = "running"
    yield made
    made.close()


# What one writes into the file of a virtual machine and gives with -e, where it beats what a role says.
EXTRA: dict[str, Any] = {"vm_state": "running", "vm_remove_data": True, "vm_shutdown_timeout": 60}


def test_a_move_with_extra_variables(hosts: Hosts) -> None:
    hosts.make()
    (hosts.base / "a" / "g" / "notes").write_text("mine")
    for changed in (True, False):
        run = hosts.move(**EXTRA)
        assert run.rc == 0, run.output
        assert any(task.changed for task in run.tasks) == changed, run.output
        assert hosts.status() == {"b": "running"}
    assert hosts.files("a/g") == {"notes"} and (hosts.base / "shared" / "disk.qcow2").exists()


def test_a_failed_move_with_extra_variables(hosts: Hosts) -> None:
    hosts.make()
    (hosts.base / "b" / "g").mkdir()
    (hosts.base / "b" / "g" / "notes").write_text("mine")
    for extra in ({"migrate_uri": "unix:/nonexistent/x"}, {"vm_incoming": False}):
        run = hosts.move(**EXTRA, **extra)
        assert run.rc != 0 and "Traceback" not in run.output
        assert hosts.status() == {"a": "running"}
        assert hosts.files("b/g") == {"notes"} and (hosts.base / "shared" / "disk.qcow2").exists()


def test_a_guest_that_never_ran_moves(hosts: Hosts) -> None:
    hosts.variables["vm_power"] = "paused"
    hosts.make()
    assert hosts.status() == {"a": "prelaunch"}
    run = hosts.move()
    assert run.rc == 0, run.output
    assert set(hosts.status()) == {"b"} and set(hosts.status().values()) <= {"prelaunch", "paused"}


# -- the guest is never ended where it may be the only one -------------------


def test_nothing_is_removed_when_the_line_to_the_source_is_cut(hosts: Hosts) -> None:
    hosts.make()
    hosts.cut("a", "qemu_migrate")
    hosts.fails("on a it is unknown", "on b running", "nothing is removed on either side", "run this again")
    assert hosts.status() == {"a": "postmigrate", "b": "running"}
    hosts.cut("a", "")
    # nor is it started again at the source, by a play or with its host, for as long as its guest may run elsewhere
    with hosts.observer("a/g") as observer:
        observer.execute("quit")
    until(lambda: len(hosts.processes()) == 1)
    run = hosts.play("vm", "a")
    assert run.rc != 0 and "was being moved to another host, and may run there" in run.output
    hosts.moved()
    assert hosts.status() == {"b": "running"}
    assert json.loads((hosts.base / "b" / "g" / "vm.json").read_text())["incoming"] is False


def test_nothing_is_removed_when_the_line_to_the_destination_is_cut(hosts: Hosts) -> None:
    hosts.make()
    hosts.cut("b", "qemu_migrate_incoming")
    hosts.fails("on a it is running", "on b unknown", "nothing is removed on either side")
    assert hosts.status() == {"a": "running", "b": "inmigrate"}
    hosts.cut("b", "")
    hosts.moved()


def test_a_source_that_dies_when_its_guest_has_arrived_is_not_missed(both: Hosts) -> None:
    both.make()
    pid = both.processes()["g"]

    def kill() -> None:
        until(lambda: is_heard(str(both.base / "b" / "g" / "run" / "monitor")))
        with contextlib.closing(Observer(str(both.base / "b" / "g" / "run" / "monitor"))) as observer:
            until(lambda: observer.status() == "running")
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run = both.move()
    finally:
        killer.join()
    assert run.rc == 0, run.output
    assert both.status() == {"b": "running"} and not (both.base / "a" / "g").exists()
    assert both.move().rc == 0


def test_a_source_is_retired_only_on_the_same_proof_in_every_run(hosts: Hosts) -> None:
    hosts.own["b"]["vm_arguments"] = {"S": True}  # so that its guest stands still when it has arrived
    hosts.make()
    for _run in range(2):
        hosts.fails("on a it is postmigrate", "on b paused", "should be running", "nothing is removed on either side")
        assert hosts.status() == {"a": "postmigrate", "b": "paused"}
    with hosts.observer("b/g") as observer:
        observer.execute("cont")
    hosts.moved()
    assert hosts.status() == {"b": "running"}


def test_a_machine_that_never_had_a_guest_is_no_arrival(hosts: Hosts) -> None:
    hosts.make()
    hosts.make("b", vm_disk=str(hosts.base / "b" / "disk.qcow2"), vm_power="paused")
    with hosts.observer("a/g") as observer:
        observer.execute("migrate", uri="exec:cat >/dev/null")
        until(lambda: observer.status() == "postmigrate")
    hosts.fails("on a it is postmigrate", "on b prelaunch", "does not have it")
    assert hosts.status() == {"a": "postmigrate", "b": "prelaunch"}


def test_another_machine_that_has_made_a_snapshot_is_no_arrival(both: Hosts) -> None:
    """QEMU calls a snapshot a completed migration, too."""
    both.make()
    both.make("b", vm_disk=str(both.base / "b" / "disk.qcow2"))
    with both.observer("b/g") as observer:
        nodes = [node["node-name"] for node in observer.look("query-named-block-nodes") if node["drv"] == "qcow2"]
        observer.execute("snapshot-save", **{"job-id": "j", "tag": "t", "vmstate": nodes[0], "devices": nodes})
        until(lambda: observer.look("query-migrate").get("status") == "completed" and observer.status() == "running")
    with both.observer("a/g") as observer:
        observer.execute("migrate", uri="exec:cat >/dev/null")
        until(lambda: observer.status() == "postmigrate")
    both.fails("on a it is postmigrate", "on b running", "one of that name")
    assert both.status() == {"a": "postmigrate", "b": "running"}


def test_another_machine_that_has_come_before_is_no_arrival(hosts: Hosts) -> None:
    """Both of that name, with disks of their own."""
    hosts.make()
    hosts.moved()
    hosts.variables["vm_disk"] = str(hosts.base / "shared" / "other.qcow2")
    hosts.make()
    with hosts.observer("a/g") as observer:
        observer.execute("migrate", uri="exec:cat >/dev/null")
        until(lambda: observer.status() == "postmigrate")
    hosts.fails("Nothing proves", "not the same on both hosts", migrate_same_disks=True)
    assert hosts.status() == {"a": "postmigrate", "b": "running"}


# -- its disks ---------------------------------------------------------------


def test_a_guest_never_goes_over_to_another_disk(hosts: Hosts) -> None:
    """Neither to an old one of its own on the other host, nor to another in the same directory, whatever is vouched for."""
    hosts.own["b"]["vm_disk"] = str(hosts.base / "b" / "disk.qcow2")
    old = [hosts.base / "b" / "disk.qcow2", hosts.base / "shared" / "other.qcow2"]
    for path in old:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
    hosts.make()
    for path in old:
        hosts.own["b"]["vm_disk"] = str(path)
        hosts.fails("g did not move", "not the same on both hosts", str(path), migrate_same_disks=True)
        assert hosts.status() == {"a": "running"} and path.exists()
    os.symlink(hosts.base / "shared", hosts.base / "b" / "mounted")
    hosts.own["b"]["vm_disk"] = str(hosts.base / "b" / "mounted" / "disk.qcow2")
    hosts.moved()


def test_what_a_disk_stands_on_is_the_same_too(hosts: Hosts) -> None:
    base, link = hosts.base / "shared" / "base.raw", hosts.base / "b" / "disk.qcow2"
    base.write_bytes(b"one" * 512)
    disk = ["-b", "base.raw", "-F", "raw", str(hosts.base / "shared" / "disk.qcow2")]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *disk, "8M"], check=True)
    link.symlink_to(disk[-1])  # QEMU looks for what it stands on beside the link
    hosts.own["b"]["vm_disk"] = str(link)
    hosts.make()
    (hosts.base / "b" / "base.raw").write_bytes(b"two" * 512)
    hosts.fails("not the same on both hosts", "base.raw", migrate_same_disks=True)
    assert hosts.status() == {"a": "running"}
    (hosts.base / "b" / "base.raw").write_bytes(b"one" * 512)
    hosts.moved()


def test_disks_of_which_nothing_can_be_proven_are_the_users_word(hosts: Hosts) -> None:
    hosts.variables["vm_blockdevs"] = [{"node_name": "n", "driver": "null-co", "options": {"size": 1048576}}]
    hosts.variables["vm_devices"] = [{"id": "d", "driver": "virtio-blk-pci", "bus": "rp0", "options": {"drive": "n"}}]
    hosts.make()
    hosts.fails("Nothing proves", "null-co", "migrate_same_disks")
    assert hosts.status() == {"a": "running"}
    hosts.moved(migrate_same_disks=True)


def test_firmware_variables_come_with_the_guest(both: Hosts) -> None:
    both.variables["vm_firmware"] = "uefi"
    both.make()
    mine, theirs = (both.base / host / "g" / "uefi-vars.fd" for host in "ab")
    new = Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes()
    until(lambda: mine.read_bytes() != new)  # the firmware writes them when it first boots
    run = both.move()
    assert run.rc == 0, run.output
    assert both.status() == {"b": "running"}
    assert theirs.read_bytes() == mine.read_bytes() != new


# -- disks that go along -----------------------------------------------------


def test_disks_go_along(both: Hosts) -> None:
    """Each host has its own two; what is there already is never written over, and what was made for nothing is removed."""
    mine, theirs = (both.base / host / "disk.qcow2" for host in "ab")
    both.variables["vm_disk"] = f"{both.base}/{{{{ inventory_hostname }}}}/disk.qcow2"
    both.variables |= {"migrate_disks": "copy", "migrate_disks_address": f"{both.base}/nbd"}
    second = {"id": "more", "filename": f"{both.base}/{{{{ inventory_hostname }}}}/more", "size": "4M", "bus": "rp0"}
    both.variables["vm_disks"] = [second]
    both.make()
    with both.observer("a/g") as observer:
        observer.hmp('qemu-io -d /machine/peripheral/disk/virtio-backend "write -P 0x5a 1M 64k"')
    theirs.write_text("mine")
    both.fails("g did not move", "is there already", str(theirs))
    assert both.status() == {"a": "running"} and theirs.read_text() == "mine"
    theirs.unlink()
    both.fails("g did not move", migrate_uri="unix:/nonexistent/x")
    assert both.status() == {"a": "running"} and not theirs.exists()
    both.moved()
    assert both.status() == {"b": "running"} and mine.exists() and (both.base / "b" / "more").stat().st_size == 4 << 20
    read = ["qemu-io", "-U", "-r", "-f", "qcow2", "-c", "read -P 0x5a 1M 64k", str(theirs)]
    done = subprocess.run(read, check=True, capture_output=True, text=True)
    assert "failed" not in done.stdout
    with both.observer("b/g") as observer:
        assert observer.look("query-block-exports") == []
    run = both.move()
    assert run.rc == 0 and not any(task.changed for task in run.tasks), run.output


def test_an_overlay_goes_along_to_the_image_that_it_stands_on(both: Hosts) -> None:
    """Only where that is proven to be the same."""
    here, there = (both.base / host / "disk.qcow2" for host in "ab")
    bases = [both.base / host / "base.raw" for host in "ab"]
    for base in bases:
        base.write_bytes(b"\x77" * (4 << 20))
    where = f"{both.base}/{{{{ inventory_hostname }}}}"
    both.variables |= {"vm_disk": f"{where}/disk.qcow2", "vm_image": f"{where}/base.raw", "vm_image_format": "raw"}
    both.variables |= {"migrate_disks": "copy", "migrate_disks_address": f"{both.base}/nbd", "migrate_chain": "keep"}
    both.make()
    with both.observer("a/g") as observer:
        observer.hmp('qemu-io -d /machine/peripheral/disk/virtio-backend "write -P 0x5a 1M 64k"')
    bases[1].write_bytes(b"\x78" * (4 << 20))
    both.fails("not the same on both hosts", "base.raw")
    assert both.status() == {"a": "running"} and not there.exists()
    bases[1].unlink()
    both.fails("there is no", "base.raw")
    assert both.status() == {"a": "running"} and not there.exists()
    bases[1].write_bytes(b"\x77" * (4 << 20))
    both.moved()
    assert both.status() == {"b": "running"} and here.exists()
    told = json.loads(subprocess.check_output(["qemu-img", "info", "-U", "--output=json", str(there)]))
    assert told["full-backing-filename"] == str(bases[1]) and told["actual-size"] < 1 << 20
    reads = ["-c", "read -P 0x5a 1M 64k", "-c", "read -P 0x77 2M 64k"]
    done = subprocess.run(
        ["qemu-io", "-U", "-r", "-f", "qcow2", *reads, str(there)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout
    run = both.move()
    assert run.rc == 0 and not any(task.changed for task in run.tasks), run.output


def test_a_disk_that_was_hot_plugged_is_another_one_at_the_destination(hosts: Hosts) -> None:
    """Which has it where the file of the virtual machine has it: before one that was there at the source's start."""
    first, second = (
        {"id": name, "filename": f"{hosts.base}/shared/{name}", "size": "1M", "bus": bus}
        for name, bus in (("x", "rp0"), ("y", "rp1"))
    )
    hosts.variables["vm_disks"] = [first]
    hosts.make()
    hosts.variables["vm_disks"] = [second, first]
    hosts.make()
    hosts.moved()


@pytest.fixture
def kept(hosts: Hosts) -> Hosts:
    """One whose disk stands on a raw image of the same contents on each host."""
    where = f"{hosts.base}/{{{{ inventory_hostname }}}}"
    for host in "ab":
        (hosts.base / host / "base").write_bytes(b"\x77" * (4 << 20))
    hosts.variables |= {"vm_disk": f"{where}/disk.qcow2", "vm_image": f"{where}/base", "vm_image_format": "raw"}
    hosts.variables |= {"migrate_disks": "copy", "migrate_disks_address": f"{hosts.base}/nbd", "migrate_chain": "keep"}
    return hosts


def test_the_same_image_in_another_format_is_not_the_same(kept: Hosts) -> None:
    """What is read as raw has other contents than what is read as qcow2, though the files are alike."""
    for host in "ab":
        line = ["qemu-img", "create", "-q", "-f", "qcow2", str(kept.base / host / "base"), "4M"]
        subprocess.run(line, check=True)
    kept.make(vm_image_format="qcow2")
    kept.fails("not the same on both hosts", "base", "(qcow2, and raw)", migrate_same_disks=True)
    assert kept.status() == {"a": "running"} and not (kept.base / "b" / "disk.qcow2").exists()
    kept.moved(vm_image_format="qcow2")


def test_the_data_of_an_image_that_has_them_elsewhere_is_compared(kept: Hosts) -> None:
    kept.variables["vm_image_format"] = "qcow2"
    for host in "ab":
        data, image = kept.base / host / "data", str(kept.base / host / "base")
        made = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", image, "1M"]
        subprocess.run(made, check=True)
        subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", image], check=True, stdout=subprocess.DEVNULL
        )
    (kept.base / "b" / "data").write_bytes(b"\x78" * (1 << 20))
    kept.make()
    kept.fails("not the same on both hosts", "data")
    assert kept.status() == {"a": "running"} and not (kept.base / "b" / "disk.qcow2").exists()


def test_an_image_that_was_replaced_since_is_not_kept(kept: Hosts) -> None:
    """Both hosts have a new one by the same name, and the guest still stands on the old one."""
    kept.make()
    for host in "ab":
        (kept.base / "new").write_bytes(b"\x78" * (4 << 20))
        (kept.base / "new").replace(kept.base / host / "base")
    kept.fails("is another file by now than QEMU has open", "chain=flatten")
    assert kept.status() == {"a": "running"} and not (kept.base / "b" / "disk.qcow2").exists()


def test_a_disk_that_is_kept_does_not_go_to_an_image_that_was_begun(kept: Hosts) -> None:
    """What the overlay has no more since would still be in it."""
    kept.make()
    kept.cut("b", "qemu_migrate_incoming")
    kept.fails("nothing is removed on either side")
    assert kept.status() == {"a": "running", "b": "inmigrate"}
    with kept.observer("b/g") as observer:
        node = next(node["node-name"] for node in observer.look("query-named-block-nodes") if node["drv"] == "qcow2")
        observer.hmp(f'qemu-io {node} "write -P 0x99 1M 64k"')
    kept.cut("b", "")
    kept.moved()
    read = ["qemu-io", "-U", "-r", "-f", "qcow2", "-c", "read -P 0x77 1M 64k", str(kept.base / "b" / "disk.qcow2")]
    done = subprocess.run(read, check=True, capture_output=True, text=True)
    assert "failed" not in done.stdout
    assert kept.status() == {"b": "running"}
