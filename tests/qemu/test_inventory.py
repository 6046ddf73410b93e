# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory as a user has it: what a real `ansible-inventory` or play makes of real and of hostile monitors."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import inventory
from support.fake_agent import FakeAgent
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


@pytest.fixture(scope="module")
def vm() -> Iterator[VM]:
    with VM("10.0", name="web1") as machine:
        yield machine


def test_hypervisors_over_ssh(vm: VM, place: Path, sshd: Sshd, playbook: Callable[..., PlayRun]) -> None:
    """One that is down costs its own machines alone; a play goes on with what the inventory tells."""
    (place / "a.qmp").symlink_to(vm.qmp)
    dead_socket(place / "gone.qmp")
    down = {**sshd.variables, "ansible_port": 1}
    hosts = hosts_file(place, {"hv1": {}, "hv2": down}, vars=sshd.variables)
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


TELL = {"name": "tell", "ansible.builtin.debug": {"msg": "{{ groups }}"}}
REFRESH = {"name": "again", "ansible.builtin.meta": "refresh_inventory"}
REFRESHED = [{"hosts": "localhost", "gather_facts": False, "tasks": [TELL, REFRESH, {**TELL, "name": "then"}]}]


def test_a_hypervisor_that_goes_away(place: Path, sshd: Sshd, playbook: Callable[..., PlayRun]) -> None:
    """Its machines stay as unreachable, by the names that they had."""
    cache = {"cache": True, "cache_plugin": "jsonfile", "cache_connection": str(place / "cache"), "cache_timeout": 0}
    hosts = hosts_file(place, {"hv1": sshd.variables})
    file = write(place, sockets=[f"{place}/*.qmp"], hypervisors=["hv1"], **cache, **PATIENT)
    with vm_named("web1") as fake:
        (place / "a.qmp").symlink_to(fake.address[5:])
        assert inventory.read(place, hosts, file).group("qemu_running") == {"web1"}
    # nor by the connection that is kept open
    hosts_file(place, {"hv1": {**sshd.variables, "ansible_port": 1, "ansible_control_path": str(place / "none")}})
    run = playbook(REFRESHED, "-i", str(hosts), "-i", str(file))
    assert run["tell"].result["msg"]["qemu_running"] == ["web1"]  # from the cache
    assert run["then"].result["msg"]["qemu_unreachable"] == run["then"].result["msg"]["qemu"] == ["web1"]


def test_the_cache(place: Path, playbook: Callable[..., PlayRun]) -> None:
    """It is used until it is refreshed, or was made by other options; a monitor that is silent now keeps its name."""
    cache = {"cache": True, "cache_plugin": "jsonfile", "cache_connection": str(place / "cache")}
    file = write(place, sockets=[f"{place}/*.qmp"], **cache, **PATIENT)
    with vm_named("web1") as fake:
        (place / "a.qmp").symlink_to(fake.address[5:])
        assert inventory.read(place, file).group("qemu_running") == {"web1"}
    dead_socket(place / "b.qmp")
    (place / "a.qmp").unlink()
    dead_socket(place / "a.qmp")
    assert inventory.read(place, file).group("qemu") == {"web1"}
    run = playbook(REFRESHED, "-i", str(file))
    assert run["tell"].result["msg"]["qemu_running"] == ["web1"]
    assert sorted(run["then"].result["msg"]["qemu_unreachable"]) == ["b", "web1"]
    assert inventory.read(place, file).group("qemu") == {"b", "web1"}
    write(place, sockets=[f"{place}/b.qmp"], **cache, **PATIENT)
    assert inventory.read(place, file).group("qemu") == {"b"}
    (kept,) = (path for path in (place / "cache").iterdir() if path.is_file())
    whole = json.loads(kept.read_text())
    known = json.loads(whole["__payload__"]) if "__payload__" in whole else whole
    machine = {"socket": f"{place}/b.qmp", "status": "running"}
    others: list[Any] = [[], {"by": known["by"]}, {**known, "machines": [machine]}]
    for damaged in others:
        kept.write_text(json.dumps({"__payload__": json.dumps(damaged)} if "__payload__" in whole else damaged))
        assert inventory.read(place, file).group("qemu_unreachable") == {"b"}


def test_expressions(place: Path) -> None:
    """What can't be evaluated is told once, or is an error; a machine of which nothing is known is neither."""
    dead_socket(place / "gone.qmp")
    where = {"where": "qemu_hypervisor ~ ':' ~ qemu_socket"}
    options: dict[str, Any] = {
        "sockets": [f"{place}/*.qmp"],
        "compose": {**where, "bad": "nothing.there"},
        "groups": {"webs": "qemu_name is match('web')"},
        "keyed_groups": [{"key": "where.split(':')[0]", "prefix": "on"}, {"key": "qemu_version", "prefix": "v"}],
        **PATIENT,
    }
    with vm_named("web1") as web, vm_named("db1") as db:
        for number, fake in enumerate((web, db)):
            (place / f"{number}.qmp").symlink_to(fake.address[5:])
        found = inventory.read(place, write(place, **options))
        options.update(strict=True, compose=where, sockets=[f"{place}/[01].qmp"])
        good = inventory.read(place, write(place, **options))
        no_match = inventory.read(place, write(place, **{**options, "sockets": [f"{place}/*.none", f"{place}/0.qmp"]}))
        bad = inventory.read(place, write(place, **{**options, "compose": {"bad": "nothing.there"}}))
    assert (
        found.rc == 0 and found.warnings.count("compose: bad is left out") == 1 and "(and 1 more host" in found.warnings
    )
    assert "qemu_version is left out" not in found.warnings and "qemu_name is" not in found.warnings
    assert found.group("webs") == {"web1"} and found.group("on_localhost") == {"web1", "db1", "gone"}
    assert found.group("v_9_1_2") == {"web1", "db1"}
    assert found.hosts["web1"]["where"] == f"localhost:{place}/0.qmp"
    assert good.rc == 0 and good.group("webs") == {"web1"}, good.warnings
    assert no_match.rc and f"sockets: nothing matches {place}/*.none" in no_match.warnings
    assert bad.rc and "nothing" in bad.warnings


def test_hostile_names(place: Path, playbook: Callable[..., PlayRun]) -> None:
    """No name is a template, an option of ssh, another machine, a group, a hypervisor or a terminal's command."""
    done = place / "done"
    template = "{{ lookup('pipe', 'touch " + str(done) + "') }}"
    names = [f"vm{template}", "-oProxyCommand=x", "web", "web", "qemu", "localhost", "late", "a\x1b[2Jb"]
    with contextlib.ExitStack() as stack:
        for number, name in enumerate(names):
            fake = stack.enter_context(vm_named(name))
            (place / f"s{number}.qmp").symlink_to(fake.address[5:])
        odd = stack.enter_context(vm_named("odd"))
        (place / "x\x1b[2J.qmp").symlink_to(odd.address[5:])
        templated = stack.enter_context(vm_named("a b"))
        (place / "{{ 7 * 6 }}.qmp").symlink_to(templated.address[5:])
        file = write(place, sockets=[f"{place}/*.qmp"], keyed_groups=[{"key": "qemu_name", "separator": ""}], **PATIENT)
        found = inventory.read(place, file)
        tell = {
            "name": "tell",
            "ansible.builtin.debug": {"msg": "{{ qemu_name }} {{ qemu_socket }} {{ inventory_hostname }}"},
        }
        run = playbook([{"hosts": "qemu", "gather_facts": False, "tasks": [tell]}], "-i", str(file))
    assert found.rc == 0 and run.rc == 0, found.warnings + run.output
    webs = {name for name in found.hosts if name.startswith("web@localhost-")}
    assert len(webs) == 2
    assert set(found.hosts) == webs | {
        "s0",
        "s1",
        "qemu@localhost",
        "localhost@localhost",
        "late@localhost",
        "s7",
        "7_6",
    }
    assert "left out, since their paths can't be written" in found.warnings
    assert "\x1b" not in found.warnings + run.output
    told = {task.host: task.result["msg"] for task in run.tasks}
    assert told["s0"] == f"{names[0]} {place}/s0.qmp s0"
    assert told["7_6"] == f"a b {place}/{{{{ 7 * 6 }}}}.qmp 7_6"
    assert not done.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"socket": ["/x"]}, "socket: there is no such option"),
        ({"sockets": ["vm1.qmp"]}, "is not a valid monitor address"),
        ({"networks": ["10.0.0.0/8"]}, "add guest_agent: true"),
    ],
)
def test_a_malformed_file(place: Path, options: dict[str, Any], told: str) -> None:
    found = inventory.read(place, write(place, **options))
    assert found.rc and told in found.warnings and "Traceback" not in found.warnings


def test_addresses(place: Path) -> None:
    """A real QEMU tells where its agent is. What a guest says comes from one that can say anything."""
    address = {"ip-address": "10.20.0.5", "prefix": 16}
    told = [{"name": "{{ x }}", "ip-addresses": [{"ip-address": "192.0.2.1", "prefix": 24}, address]}]
    agent = ["-device", "virtio-serial-pci", "-chardev", f"socket,id=ga,path={place}/no,server=on,wait=off"]
    agent += ["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"]
    answers = {
        "qom_list": [{"name": "p", "type": "child<virtserialport>"}],
        "qom_get": lambda command: {"name": "org.qemu.guest_agent.0"}.get(command["arguments"]["property"], "ga"),
        "query_chardev": [{"label": "ga", "filename": f"disconnected:unix:{place}/agent,server=on"}],
    }
    guest = FakeAgent(place / "agent", answers={"guest-network-get-interfaces": told})
    with guest, VM("7.2", args=agent, name="real") as vm, vm_named("web1", **answers) as fake:
        (place / "a.qmp").symlink_to(fake.address[5:])
        (place / "b.qmp").symlink_to(vm.qmp)
        # the real one has no guest, whose time has to be up: not for long
        waits = {"connect_timeout": 5, "timeout": 240}
        options = {"sockets": [f"{place}/*.qmp"], "guest_agent": True, "networks": ["10.20.0.0/16"]}
        found = inventory.read(place, write(place, **options, **waits))
    assert found.hosts["web1"]["ansible_host"] == "10.20.0.5"
    assert found.hosts["web1"]["qemu_interfaces"][0]["name"] == "{{ x }}"
    real = found.hosts["real"]
    assert real["qemu_status"] == "prelaunch" and real["qemu_agent"] == f"{place}/no"
    assert "no guest agent answered" in real["qemu_agent_reason"] and "ansible_host" not in real
