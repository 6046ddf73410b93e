# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_object: types, what changes in place, who may hold one, and secrets, which nothing shows."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from support.architectures import S390X
from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.proxy import Proxy
from support.vm import OLDEST, VM

HUSH = 'hunter2\'s "own"\\word'


@pytest.fixture
def thing(paused_vm: VM) -> Lifecycle:
    return Lifecycle(paused_vm, "qemu_object")


def prop(vm: VM, ident: str, name: str) -> Any:
    return vm.observer.qom_get(f"/objects/{ident}", name)


def test_a_whole_life(thing: Lifecycle) -> None:
    vm = thing.vm
    clean = vm.fingerprint()
    given: dict[str, Any] = {"id": "m0", "qom_type": "memory-backend-ram", "options": {"size": "16M", "share": "yes"}}
    added = thing.step(**given)
    assert added["commands"] == [
        {
            "execute": "object-add",
            "arguments": {"qom-type": "memory-backend-ram", "id": "m0", "size": 16 << 20, "share": True},
        }
    ]
    assert added["object"] == {**given, "options": {"size": 16 << 20, "share": True}}
    assert vm.observer.objects()["m0"] == "memory-backend-ram"
    thing.refused("object m0", "options.size", str(16 << 20), "32M", "recreate", id="m0", options={"size": "32M"})
    thing.refused("qom_type", "'memory-backend-ram'", "'iothread'", "recreate", id="m0", qom_type="iothread")
    again = thing.step(id="m0", options={"size": "32M"}, recreate=True)
    assert names(again) == ["object-del", "object-add"]
    assert (prop(vm, "m0", "size"), prop(vm, "m0", "share")) == (32 << 20, True)
    gone = thing.step(id="m0", state="absent")
    assert names(gone) == ["object-del"] and gone["object"] == {}
    assert vm.fingerprint() == clean


def test_what_changes_in_place(thing: Lifecycle) -> None:
    vm = thing.vm
    thing.step(id="io0", qom_type="iothread", options={"poll-max-ns": 1000, "poll_grow": "2"})
    done = thing.step(id="io0", options={"poll_max_ns": "2000"})
    assert done["commands"] == [
        {
            "execute": "qom-set",
            "arguments": {"path": "/objects/io0", "property": "poll-max-ns", "value": 2000},
        }
    ]
    assert (prop(vm, "io0", "poll-max-ns"), prop(vm, "io0", "poll-grow")) == (2000, 2)

    thing.step(id="t0", qom_type="throttle-group", options={"limits": {"iops-total": 100, "bps-read": 5}})
    done = thing.step(id="t0", options={"limits": {"iops-total": "200"}})
    assert names(done) == ["qom-set"]
    limits = prop(vm, "t0", "limits")
    assert (limits["iops-total"], limits["bps-read"]) == (200, 5)
    assert done["diff"]["before"]["object"]["t0"]["options"]["limits"]["iops-total"] == 100
    assert done["diff"]["after"]["object"]["t0"]["options"]["limits"]["bps-read"] == 5
    thing.refused("iopsx-total", "iops-total-max", id="t0", options={"limits": {"iopsx-total": 300}})

    rules = [{"match": "fred", "policy": "allow", "format": "exact"}]
    thing.step(id="a0", qom_type="authz-list", options={"policy": "deny", "rules": rules})
    assert names(thing.step(id="a0", options={"policy": "allow", "rules": []})) == ["qom-set", "qom-set"]
    assert (prop(vm, "a0", "policy"), prop(vm, "a0", "rules")) == ("allow", [])
    for ident in ("io0", "t0", "a0"):
        thing.step(id=ident, state="absent")


def test_a_failure_in_the_middle_is_taken_back(thing: Lifecycle) -> None:
    vm = thing.vm
    thing.step(id="io0", qom_type="iothread", options={"poll-max-ns": 1000, "poll-grow": 1})
    bad: dict[str, Any] = {"id": "io0", "options": {"poll-max-ns": 2000, "poll-grow": -1}}
    result = thing.refused("poll-grow", "taken back: qom-set", foretold=False, **bad)
    assert result["rolled_back"][0]["arguments"]["value"] == 1000
    assert (prop(vm, "io0", "poll-max-ns"), prop(vm, "io0", "poll-grow")) == (1000, 1)
    bad = {
        "id": "io0",
        "qom_type": "rng-random",
        "options": {"filename": "/nosuch/rng"},
        "recreate": True,
    }
    result = thing.refused("/nosuch/rng", "taken back: object-add", foretold=False, **bad)
    assert (prop(vm, "io0", "poll-max-ns"), prop(vm, "io0", "poll-grow")) == (1000, 1)
    thing.step(id="io0", state="absent")


@pytest.mark.parametrize(
    "plug",
    [
        ("rng-random", {"filename": "/dev/urandom"}, "virtio-rng-pci", {"rng": "o0"}),
        ("iothread", {}, "virtio-scsi-pci", {"iothread": "o0"}),
        ("cryptodev-backend-builtin", {}, "virtio-crypto-pci", {"cryptodev": "o0"}),
    ],
    ids=lambda plug: plug[0],
)
def test_one_that_a_device_holds_stays(thing: Lifecycle, plug: tuple[str, dict[str, Any], str, dict[str, Any]]) -> None:
    """QEMU itself lets some of them go."""
    kind, options, driver, link = plug
    vm = thing.vm
    thing.step(id="o0", qom_type=kind, options=options)
    vm.observer.send("device_add", {"driver": driver, "id": "d0", "bus": "rp0", **link})
    thing.refused("object o0 is in use by device d0", id="o0", state="absent")
    thing.refused("in use by device d0", id="o0", qom_type="secret", options={"data": HUSH}, recreate=True)


def test_one_that_a_device_without_an_id_holds_stays(start_vm: Any) -> None:
    more = ["-object", "rng-random,id=o0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=o0,bus=rp0"]
    Lifecycle(start_vm(args=more), "qemu_object").refused("in use by device device[", id="o0", state="absent")


def test_an_iothread_that_an_export_may_run_in_stays(thing: Lifecycle) -> None:
    """QEMU does not tell in which one it runs, and 7.2 ends at the next look at its block nodes when that is gone."""
    vm = thing.vm
    thing.step(id="o0", qom_type="iothread")
    vm.observer.execute("blockdev-add", driver="null-co", **{"node-name": "n0"})
    vm.observer.send("nbd-server-start", {"addr": {"type": "unix", "data": {"path": f"{vm.directory}/nbd"}}})
    vm.observer.send("block-export-add", {"type": "nbd", "id": "x0", "node-name": "n0", "iothread": "o0"})
    thing.refused("object o0", "block export x0", id="o0", state="absent")
    assert run_module(vm, "qemu_machine", objects=[], purge=True)["commands"] == []
    assert "o0" in vm.observer.objects() and vm.observer.nodes() == {"n0"}
    vm.observer.send("block-export-del", {"id": "x0"})
    vm.observer.wait_event("BLOCK_EXPORT_DELETED", id="x0")
    thing.step(id="o0", state="absent")


def test_the_machines_own_memory_stays(thing: Lifecycle) -> None:
    thing.refused("pc.ram is the memory of this VM", id="pc.ram", state="absent")


def test_what_reading_can_tell_is_refused_before_anything_is_sent(thing: Lifecycle) -> None:
    thing.step(id="io0", qom_type="iothread")
    for words, options in (
        (("qom_type", "must be named"), {"id": "o0"}),
        (("'nosuch'",), {"id": "o0", "qom_type": "nosuch"}),
        (("accepted", "iothread"), {"id": "o0", "qom_type": "virtio-rng-pci"}),
        (("no property 'poll-max-nss'", "'poll-max-ns'"), {"id": "io0", "options": {"poll-max-nss": 1}}),
        (("no property 'sizee'", "'size'"), _ram({"sizee": 1})),
        (("size", "missing"), _ram({})),
        (("qom_type has an option of its own",), _ram({"qom_type": "x"})),
        (("size", "plenty"), _ram({"size": "plenty"})),
        (("poll-max-ns", "'x'"), {"id": "io0", "options": {"poll-max-ns": "x"}}),
        (("'0bad'", "letter"), {"id": "0bad", "qom_type": "iothread"}),
    ):
        thing.refused(*words, **options)
    thing.same(id="o0", state="absent")


def _ram(options: dict[str, Any]) -> dict[str, Any]:
    return {"id": "o0", "qom_type": "memory-backend-ram", "options": options}


def quiet(result: Any, *secrets: str) -> None:
    """Nothing in a result is one of the secrets, however it is written."""
    texts = [repr(result), json.dumps(result)]
    for secret in secrets:
        for spelling in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
            assert not any(spelling in text for text in texts), texts[1]


def test_the_life_of_a_secret(thing: Lifecycle) -> None:
    vm = thing.vm
    other = "correct horse"
    given: dict[str, Any] = {"id": "s0", "qom_type": "secret", "options": {"data": HUSH}}
    made = thing.step(**given)
    assert prop(vm, "s0", "data") == HUSH
    assert made["object"]["qom_type"] == "secret" and "data" in made["object"]["options"]
    drift = {**given, "options": {"data": other, "format": "raw"}}
    told = thing.refused("options.data", "recreate", **drift)
    again = thing.step(**drift, recreate=True)
    assert names(again) == ["object-del", "object-add"] and prop(vm, "s0", "data") == other
    before, after = (again["diff"][side]["object"]["s0"]["options"]["data"] for side in ("before", "after"))
    assert before != after
    same = thing.same(**drift)
    gone = thing.step(id="s0", state="absent")
    for result in (made, told, again, same, gone):
        quiet(result, HUSH, other)


def test_a_secret_in_a_failure(thing: Lifecycle) -> None:
    """Where QEMU, or what it is asked with, quotes it."""
    vm = thing.vm
    thing.step(id="s0", qom_type="secret", options={"data": "c2VjcmV0", "format": "base64"})
    bad: dict[str, Any] = {
        "id": "s0",
        "qom_type": "secret",
        "options": {"data": HUSH, "format": "base64"},
        "recreate": True,
    }
    result = thing.refused("ase64", "taken back: object-add", foretold=False, **bad)
    quiet(result, HUSH, "c2VjcmV0")
    assert prop(vm, "s0", "data") == "c2VjcmV0"  # as it was
    thing.step(id="s0", state="absent")
    for options in (
        {"data": [HUSH, "deep"]},
        {"data": {"password": HUSH}},
        {"data": HUSH, "nosuch": 1},
        {"data": HUSH, "keyid": f"no secret called {HUSH}", "iv": "AAAA"},
        {"data": HUSH, "file": "/x"},
        {"dat": HUSH},
    ):
        with pytest.raises(ModuleFailed) as failed:
            run_module(vm, "qemu_object", id="s1", qom_type="secret", options=options)
        quiet(failed.value.result, HUSH)
    assert "s1" not in vm.observer.objects()


def test_tls_credentials(thing: Lifecycle) -> None:
    vm = thing.vm
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    usage = "-addext keyUsage=critical,keyCertSign,digitalSignature -keyout key.pem -out ca-cert.pem"
    command = ["openssl", *words.split(), *usage.split()]
    subprocess.run(command, cwd=vm.directory, check=True, capture_output=True)
    given: dict[str, Any] = {
        "id": "tls0",
        "qom_type": "tls-creds-x509",
        "options": {"dir": str(vm.directory), "endpoint": "client", "verify-peer": "no"},
    }
    thing.step(**given)
    thing.refused("verify-peer", "recreate", id="tls0", options={"verify-peer": True})
    bad: dict[str, Any] = {**given, "options": {"dir": "/nosuch", "endpoint": "client"}, "recreate": True}
    thing.refused("/nosuch", "taken back: object-add", foretold=False, **bad)
    assert (prop(vm, "tls0", "dir"), prop(vm, "tls0", "verify-peer")) == (str(vm.directory), False)
    thing.step(id="tls0", state="absent")


@pytest.mark.parametrize("version", [OLDEST, S390X])
def test_on_other_qemus(start_vm: Any, version: str) -> None:
    thing = Lifecycle(start_vm(version=version), "qemu_object")
    thing.step(id="m0", qom_type="memory-backend-ram", options={"size": "4M"})
    thing.refused("size", "recreate", id="m0", options={"size": "8M"})
    thing.step(id="m0", state="absent")
    thing.step(id="s0", qom_type="secret", options={"data": HUSH})
    quiet(thing.refused("data", id="s0", options={"data": "else"}), HUSH, "else")


def test_as_ansible_runs_it(paused_vm: VM, playbook: Any) -> None:
    """Everything that Ansible prints with all its verbosity, of runs that go well and runs that fail."""
    secret, other = HUSH, "tr0ub4dor&3"
    where: dict[str, Any] = {"socket": paused_vm.qmp, "id": "s0"}
    tasks = [
        ("made", {**where, "qom_type": "secret", "options": {"data": secret}}),
        ("again", {**where, "qom_type": "secret", "options": {"data": secret}}),
        ("drift", {**where, "options": {"data": other}}),
        ("other", {**where, "qom_type": "secret", "options": {"data": other}, "recreate": True}),
        ("broken", {**where, "options": {"data": secret, "format": "base64"}, "qom_type": "secret", "recreate": True}),
        ("invalid", {**where, "options": {"data": secret}, "nosuch": 1}),
        ("text", {**where, "options": f"data='{other}'", "nosuch": 1}),
        ("misspelt", {**where, "id": "s1", "qom_type": "secret", "options": {"dat": other}}),
        ("wrong", {**where, "id": "s1", "qom_type": "secret", "options": {"data": [secret]}}),
        ("gone", {**where, "state": "absent"}),
    ]
    play = [
        {"name": name, "vmm.qemu.qemu_object": options, "register": "told", "ignore_errors": True}
        for name, options in tasks
    ]
    for check in (True, False):
        run = playbook([{"hosts": "all", "gather_facts": False, "tasks": play}], "-vvv", check=check, diff=True)
        assert [task.task for task in run.tasks] == [name for name, _options in tasks]
        for text in (run.output, *(json.dumps(task.result) for task in run.tasks)):
            # the play's own file is no output; what -vvv tells of the task is
            quiet(text, secret, other)
    assert [run[name].failed for name, _options in tasks] == [False, False, True, False, *[True] * 5, False]
    assert [run[name].changed for name in ("made", "again", "other", "gone")] == [True, False, True, True]
    assert run["made"].result["invocation"]["module_args"]["options"] != {}


@pytest.mark.parametrize("fault", ["lose", "cut"])
def test_a_connection_that_breaks(thing: Lifecycle, fault: str) -> None:
    vm = thing.vm
    before = vm.fingerprint()
    with Proxy(vm.qmp, fault, "object-add") as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_object", id="s0", qom_type="secret", options={"data": HUSH})
    assert "lost QEMU" in failed.value.result["msg"] and "not_rolled_back" not in failed.value.result
    quiet(failed.value.result, HUSH)
    assert vm.fingerprint() == before


def test_the_systems_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where Ansible logs each module's options before the module does anything."""
    from ansible.module_utils import basic
    from ansible.module_utils.testing import patch_module_args

    from ansible_collections.vmm.qemu.plugins.modules import qemu_object

    logged: list[str] = []
    monkeypatch.setattr(
        basic.AnsibleModule, "log", lambda self, text, log_args=None: logged.append(f"{text} {log_args}")
    )
    given = {"socket": "/nosuch/qmp", "id": "s0", "qom_type": "secret", "options": {"data": HUSH}}
    with patch_module_args(given), pytest.raises(SystemExit):
        qemu_object.main()
    assert any("Invoked with" in text and "s0" in text for text in logged)
    for text in (*logged, capsys.readouterr().out):
        quiet(text, HUSH)


@pytest.mark.parametrize("version", [OLDEST, "7.2", "10.0"])
def test_types_whose_properties_qemu_can_not_list_without_harm(start_vm: Any, version: str) -> None:
    """To list them, QEMU makes one and throws it away: it dies of a colo-compare; a filter-dump closes descriptor 0."""
    vm = start_vm(version=version)
    thing = Lifecycle(vm, "qemu_object")
    stdin = os.readlink(f"/proc/{vm.pid}/fd/0")
    run_module(vm, "qemu_netdev", id="n0", type="user")
    for name in ("in0", "in1", "out0"):
        path = f"{vm.directory}/{name}"
        run_module(vm, "qemu_chardev", id=name, type="socket", server=True, path=path)
    thing.step(id="io0", qom_type="iothread")
    ends = {"primary_in": "in0", "secondary-in": "in1", "outdev": "out0", "iothread": "io0"}
    thing.step(id="cc0", qom_type="colo-compare", options=ends)
    dump = {"netdev": "n0", "file": f"{vm.directory}/dump", "maxlen": "1k"}
    thing.step(id="fd0", qom_type="filter-dump", options=dump)
    thing.refused("colo-compare has no property 'nosuch'", id="cc1", qom_type="colo-compare", options={"nosuch": 1})
    thing.refused("io0 is in use by object cc0", id="io0", state="absent")
    for module, ident, user in (("qemu_chardev", "in1", "cc0"), ("qemu_netdev", "n0", "fd0")):
        Lifecycle(vm, module).refused(f"in use by object {user}", id=ident, state="absent")
    for ident in ("fd0", "cc0", "io0"):
        thing.step(id=ident, state="absent")
    assert vm.alive and os.readlink(f"/proc/{vm.pid}/fd/0") == stdin
