# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory as a user has it: what a real `ansible-inventory` or play makes of real and of hostile monitors."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import inventory
from support.fakeqmp import FakeQMP
from support.inventory import write
from support.plays import PlayRun
from support.sshd import Sshd
from support.vm import VM

# A busy machine must not make a monitor that answers look like one that does not.
PATIENT = {"connect_timeout": 60, "timeout": 240}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="inv-", dir="/tmp") as directory:
        yield Path(directory)


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def vm_named(name: str, **answers: Any) -> FakeQMP:
    """A monitor that tells that name."""

    def script(peer: Any) -> None:
        peer.negotiate()
        peer.serve(query_name={"name": name}, query_status={"status": "running"}, **answers)

    return FakeQMP(script)


def test_hosts_and_groups(start_vm: Callable[..., VM], place: Path) -> None:
    vm, held = start_vm(name="web1"), start_vm(name="web2")
    for one, link in ((vm, "a.qmp"), (held, "b.qmp")):
        (place / link).symlink_to(one.qmp)
    (place / "again.qmp").symlink_to(vm.qmp)
    (place / "notes.qmp").write_text("not a socket")
    dead_socket(place / "gone.qmp")
    vm.observer.execute("cont")
    file = write(place, sockets=[f"{place}/*.qmp"], timeout=240, connect_timeout=5)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(held.qmp)
        assert client.recv(10)
        found = inventory.read(place, file)
        graph = inventory.run(place, "-i", file, "--graph").stdout
    assert found.rc == 0, found.warnings
    assert set(found.hosts) == {"web1", "b", "gone"}
    assert found.group("qemu_running") == {"web1"}
    assert found.group("qemu_busy") == {"b"} and found.group("qemu_unreachable") == {"gone"}
    assert found.group("qemu") == {"web1", "b", "gone"}
    version = ".".join(str(vm.observer.execute("query-version")["qemu"][part]) for part in ("major", "minor", "micro"))
    assert found.hosts["web1"] == {
        "qemu_status": "running",
        "qemu_name": "web1",
        "qemu_version": version,
        "qemu_socket": f"{place}/a.qmp",
        "qemu_hypervisor": "localhost",
    }
    busy = found.hosts["b"]
    assert busy["qemu_client"]["name"].startswith("py") and "another client" in busy["qemu_reason"]
    assert "nothing listens there" in found.hosts["gone"]["qemu_reason"]
    assert "|  |--@qemu_busy:\n  |  |  |--b\n" in graph


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


def hosts_file(place: Path, hosts: dict[str, Any], **group: Any) -> Path:
    """Hypervisors as another source of the inventory: the group kvm_hosts."""
    path = place / "hosts.json"
    path.write_text(json.dumps({"kvm_hosts": {"hosts": hosts, **group}}))
    return path


def test_hypervisors_over_ssh(
    start_vm: Callable[..., VM], place: Path, sshd: Sshd, playbook: Callable[..., PlayRun]
) -> None:
    """One that is down costs its own machines alone; a play goes on with what the inventory tells."""
    vm = start_vm(version="10.0", name="web1")
    (place / "a.qmp").symlink_to(vm.qmp)
    dead_socket(place / "gone.qmp")
    down = {**sshd.variables, "ansible_port": 1}
    hosts = hosts_file(place, {"hv1": {}, "hv2": down}, vars={**sshd.variables, "place": "lab"})
    file = write(place, sockets=[f"{place}/*.qmp"], hypervisors=["kvm_hosts"], **PATIENT)
    found = inventory.read(place, hosts, file)
    assert found.rc == 0, found.warnings
    assert found.group("qemu") == {"web1", "gone"}
    assert "hypervisor hv2: " in found.warnings and "Connection refused" in found.warnings
    assert found.hosts["web1"]["qemu_hypervisor"] == "hv1"
    task = {
        "name": "cont",
        "vmm.qemu.qemu_power": {"socket": "{{ qemu_socket }}", "state": "running"},
        "delegate_to": "{{ qemu_hypervisor }}",
    }
    plays = [{"hosts": "qemu:!qemu_busy:!qemu_unreachable", "gather_facts": False, "tasks": [task]}]
    variables = {"ansible_connection": None, "ansible_python_interpreter": None, "vmm_qemu_runner": True}
    run = playbook(plays, "-i", str(hosts), "-i", str(file), variables=variables)
    assert run.rc == 0, run.output
    assert [(task.host, task.changed) for task in run.tasks] == [("web1", True)]
    assert vm.observer.execute("query-status")["status"] == "running"
