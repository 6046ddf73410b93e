# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many VMs in one task: some of them can't be done, the others are; and a task that is told to stop."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.fakeqmp import FakeQMP
from support.modules import ModuleFailed, run_module
from support.observer import Observer
from support.plays import PlayRun
from support.timing import until
from support.vm import VM, process_exists, qemu_binary

Playbook = Callable[..., PlayRun]
SECRET = {"id": "s0", "qom_type": "secret", "options": {"data": "hunter22"}}


def play(module: str, **options: Any) -> list[dict[str, Any]]:
    return [{"hosts": "all", "gather_facts": False, "tasks": [{"name": "t", f"vmm.qemu.{module}": options}]}]


def test_one_is_dead_and_one_is_impossible_and_the_third_is_done(playbook: Playbook) -> None:
    with VM("7.2") as good, VM("10.0") as bad, VM("10.0") as dead:
        dead.kill()
        disk = {"id": "d0", "filename": good.image("d0.raw"), "bus": "rp0"}
        machines = {
            "dead": {"socket": dead.qmp},
            "bad": {"socket": bad.qmp, "disks": [{**disk, "bus": "rp99"}]},
            "good": {"socket": good.qmp, "disks": [disk]},
        }
        before = [vm.fingerprint() for vm in (good, bad)]
        task = play("qemu_machine", machines=machines, objects=[SECRET])
        foretold = playbook(task, "-vvv", check=True, diff=True, here=True)
        assert [vm.fingerprint() for vm in (good, bad)] == before
        done = playbook(task, "-vvv", diff=True)

        for run in (foretold, done):
            result = run["t"].result
            assert run["t"].status == "failed" and result["changed"], run.output
            assert result["msg"].startswith("1 changed, 0 unchanged, 2 failed: dead: "), result["msg"]
            assert "bad: disks[0] d0: " in result["msg"] and "rp99" in result["msg"]
            assert result["machines"]["good"]["summary"] == {"add": 2, "change": 0, "remove": 0, "unchanged": 0}
            assert list(result["diff"]["after"]) == ["good"]
            assert "hunter22" not in run.output + str(result)
        assert foretold["t"].result["machines"]["good"]["commands"] == done["t"].result["machines"]["good"]["commands"]
        assert "d0" in good.plugged() and "s0" in good.observer.objects()
        assert bad.fingerprint() == before[1]

        again = playbook(play("qemu_machine", machines={"good": machines["good"]}, objects=[SECRET]), here=True)
        assert again["t"].status == "ok" and not again["t"].changed, again.output
        assert again["t"].result["machines"]["good"]["commands"] == []
        assert again["t"].result["msg"] == "0 changed, 1 unchanged"


def test_power_and_a_look_at_each() -> None:
    with VM("7.2") as one, VM("10.0") as other:
        sockets = {"one": {"socket": one.qmp}, "other": {"socket": other.qmp}}
        off = {**sockets, "other": {"socket": other.qmp, "state": "off"}}
        assert run_module(None, "qemu_power", machines=off, state="running")["msg"] == "2 changed, 0 unchanged"
        assert one.observer.status() == "running" and not other.alive
        found = run_module(None, "qemu_info", machines={"one": sockets["one"]})["machines"]
        assert found["one"]["vm"]["status"]["status"] == "running"


def test_from_nothing_to_running(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("a", "b")}
    machines: dict[str, dict[str, Any]] = {name: {"directory": str(place)} for name, place in places.items()}
    wrong = {"c": {"directory": str(tmp_path / "c"), "disk": str(tmp_path / "none" / "disk.raw")}}
    shared: dict[str, Any] = {
        "user": "",
        "service": "daemon",
        "accel": "tcg",
        "memory": "64M",
        "binary": str(qemu_binary("10.0")),
    }
    shared |= {"shutdown_timeout": 0, "disk_size": "1M"}
    try:
        with pytest.raises(ModuleFailed, match=r"^2 changed, 0 unchanged, 1 failed: c: (?!c: )"):
            run_module(None, "qemu_vm", machines={**machines, **wrong}, **shared)
        pids = {name: int((place / "run" / "pid").read_text()) for name, place in places.items()}
        assert all(map(process_exists, pids.values())) and not (tmp_path / "c").exists()
        for name, place in places.items():
            observer = Observer(str(place / "run" / "monitor"))
            assert observer.look("query-name")["name"] == name and observer.status() == "running"
            observer.close()
        assert run_module(None, "qemu_vm", machines=machines, **shared)["msg"] == "0 changed, 2 unchanged"
    finally:
        run_module(None, "qemu_vm", machines=machines, **shared, state="absent", remove_data=True)
    assert not any(map(process_exists, pids.values())) and not any(place.exists() for place in places.values())


@pytest.mark.parametrize("here", [True, False])
def test_a_task_that_is_told_to_stop_takes_back_what_it_did_to_each(
    playbook: Playbook, tmp_path: Path, here: bool
) -> None:
    """Each has something made and waits for a balloon without a guest; one more waits for its monitor."""
    balloon = ["-device", "virtio-balloon-pci,bus=rp7", "-trace", "virtio_balloon_to_target"]
    with ExitStack() as stack:
        vms = [stack.enter_context(VM(version, args=balloon)) for version in ("7.2", "10.0")]
        silent = stack.enter_context(FakeQMP(lambda peer: peer.closed()))
        for vm in vms:
            vm.observer.execute("cont")
        before = [vm.fingerprint() for vm in vms]

        def stop() -> None:
            until(lambda: all(targets(vm) == [128] for vm in vms) and bool(silent.peers))
            os.killpg(int((tmp_path / "pid").read_text()), signal.SIGINT)

        stopper = threading.Thread(target=stop)
        stopper.start()
        leader = ("setsid", "sh", "-c", f'echo $$ >{tmp_path}/pid; exec "$@"', "sh")
        machines = {address: {"socket": address} for address in (*(vm.qmp for vm in vms), silent.address)}
        document = {"objects": [{"id": "io0", "qom_type": "iothread"}], "balloon": "128M"}
        long = {"timeout": 120, "connect_timeout": 120}
        run = playbook(play("qemu_machine", machines=machines, **document, **long), here=here, prefix=leader)
        stopper.join()
        assert run.rc and not run.tasks, run.output
        until(lambda: not any(vm.attended() for vm in vms))
        assert [vm.fingerprint() for vm in vms] == before
        assert [targets(vm) for vm in vms] == [[128, 256]] * 2


def targets(vm: VM) -> list[int]:
    """What the balloon was asked for, in MiB."""
    return [int(size, 16) >> 20 for size in re.findall(r"balloon target: *(?:0x)?([0-9a-f]+)", vm.stderr)]
