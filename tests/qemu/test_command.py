# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_command: queries and others, checked before, failing in the middle, and in check mode."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from support.lifecycle import names
from support.modules import ModuleFailed, run_module
from support.vm import VM


def command(vm: VM, *commands: Any, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_command", check=check, commands=list(commands), **options)


def refused(vm: VM, *commands: Any, check: bool | None = None, **options: Any) -> dict[str, Any]:
    """Failed, in check mode too unless ``check`` says otherwise."""
    for mode in (True, False) if check is None else (check,):
        with pytest.raises(ModuleFailed) as failed:
            command(vm, *commands, check=mode, **options)
    return failed.value.result


def add(kind: str, ident: str, **more: Any) -> dict[str, Any]:
    return {"execute": "object-add", "arguments": {"qom-type": kind, "id": ident, **more}}


def test_queries_change_nothing(paused_vm: VM) -> None:
    info = {"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}
    for check in (True, False):
        done = command(paused_vm, "query-status", {"execute": "query-name"}, info, check=check)
        assert (done["changed"], done["commands"]) == (False, [])
        assert done["responses"][0]["status"] == "prelaunch"
        assert done["responses"][1] == {"name": "bed"}
        assert "paused" in done["responses"][2]
    assert command(paused_vm)["responses"] == []


def test_commands_in_check_mode_and_for_real(paused_vm: VM) -> None:
    vm = paused_vm
    look = {"execute": "qom-get", "arguments": {"path": "/objects/io0", "property": "poll-max-ns"}}
    wanted = ("query-status", add("iothread", "io0", **{"poll-max-ns": "0x10"}), look, "cont")
    before = vm.fingerprint()
    foretold = command(vm, *wanted, check=True)
    assert vm.fingerprint() == before
    assert foretold["responses"][0]["status"] == "prelaunch"
    assert foretold["responses"][1:] == [None, None, None]
    assert "check mode" in foretold["warnings"][0]
    done = command(vm, *wanted)
    assert (done["changed"], done["commands"]) == (foretold["changed"], foretold["commands"])
    assert names(done) == ["object-add", "cont"]
    assert done["commands"][0]["arguments"]["poll-max-ns"] == 16
    assert done["responses"][1:] == [{}, 16, {}]
    assert vm.observer.qom_get("/objects/io0", "poll-max-ns") == 16
    assert vm.observer.status() == "running"


def test_all_are_checked_before_the_first_is_sent(paused_vm: VM) -> None:
    vm = paused_vm
    failed = refused(vm, "cont", "query-statu", {"execute": "balloon", "arguments": {"vale": 3}})
    for words in ("commands[1]", "'query-statu'", "'query-status'", "commands[2]", "'vale'", "'value' is missing"):
        assert words in failed["msg"]
    assert failed["commands"] == []
    assert vm.observer.status() == "prelaunch"
    failed = refused(vm, "cont", "nosuch", validate=False, check=False)
    assert "commands[1]" in failed["msg"]
    assert failed["error"]["class"] == "CommandNotFound"
    assert (failed["changed"], names(failed), failed["responses"]) == (True, ["cont"], [{}])
    assert vm.observer.status() == "running"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("query status", "human-monitor-command"),
        ('{"execute": "query-status"}', "JSON text"),
        (5, "not a valid command"),
        ({"execute": "query-status", "argument": {}}, "argument: no such key"),
        ({"arguments": {}}, "one of execute and exec-oob"),
        ({"execute": "query-status", "exec-oob": "query-status"}, "one of execute and exec-oob"),
        ({"execute": "query-status", "arguments": [1]}, "not a dictionary"),
        ({"execute": None}, "None is not a command's name"),
    ],
)
def test_what_is_no_command(paused_vm: VM, entry: Any, words: str) -> None:
    failed = refused(paused_vm, "query-name", entry, validate=False)
    assert "commands[1]" in failed["msg"]
    assert words in failed["msg"]


def test_a_failure_in_the_middle(paused_vm: VM) -> None:
    vm = paused_vm
    wanted = (add("iothread", "io0"), "query-name", {"execute": "object-del", "arguments": {"id": "zz"}}, "cont")
    failed = refused(vm, *wanted, check=False)
    assert "commands[2]: object-del" in failed["msg"]
    assert failed["error"] == {"class": "GenericError", "desc": "object 'zz' not found"}
    assert (failed["changed"], names(failed)) == (True, ["object-add"])
    assert failed["responses"] == [{}, {"name": "bed"}]
    assert "io0" in vm.observer.objects()
    assert vm.observer.status() == "prelaunch"
    failed = refused(vm, {"execute": "qom-get", "arguments": {"path": "/objects/zz", "property": "x"}})
    assert failed["error"]["class"] == "DeviceNotFound"
    assert failed["changed"] is False


def test_a_command_without_an_answer(paused_vm: VM) -> None:
    vm = paused_vm
    os.kill(vm.pid, 19)
    try:
        failed = refused(vm, "query-status", connect_timeout=0.5, timeout=1)
        assert failed["commands"] == []
    finally:
        os.kill(vm.pid, 18)


def test_secrets_are_not_shown(paused_vm: VM) -> None:
    vm = paused_vm
    line = {"execute": "human-monitor-command", "arguments": {"command-line": "object_add secret,id=s1,data=hush"}}
    shown = []
    for check in (True, False):
        done = command(vm, add("secret", "s0", data="hush"), line, check=check)
        shown.append(done["commands"])
    assert shown[0] == shown[1]
    assert "hush" not in json.dumps(shown)
    assert shown[0][0]["arguments"]["id"] == "s0"
    assert vm.observer.objects()["s0"] == vm.observer.objects()["s1"] == "secret"
    password = {"execute": "set_password", "arguments": {"protocol": "vnc", "password": "hush"}}
    done = command(vm, password, check=True)
    assert "hush" not in json.dumps(done)
    failed = refused(vm, add("secret", "s0", data="hush"), check=False)
    assert "hush" not in json.dumps(failed)


def test_secrets_are_not_shown_by_ansible(paused_vm: VM, playbook: Any) -> None:
    """Neither the options nor an error that quotes them nor what QEMU answers, with all of Ansible's verbosity."""
    secret = "c0rrect-h0rse"
    line = {"execute": "human-monitor-command", "arguments": {"command-line": f"set_password vnc {secret}"}}
    tasks = {
        "made": add("secret", "s0", data=secret),
        "again": add("secret", "s0", data=secret),
        "wrong": add("secret", "s1", data=[secret]),
        "line": line,
        "asked": {"execute": "qom-get", "arguments": {"path": "/objects/s0", "property": "data"}},
    }
    play = [
        {"name": name, "vmm.qemu.qemu_command": {"socket": paused_vm.qmp, "commands": [entry]}, "ignore_errors": True}
        for name, entry in tasks.items()
    ]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": play}], "-vvv")
    assert [task.failed for task in run.tasks] == [False, True, True, False, False]
    assert secret not in run.output
    assert secret not in json.dumps([task.result for task in run.tasks])
    assert run["made"].result["invocation"]["module_args"]["commands"] != []


def test_out_of_band(paused_vm: VM) -> None:
    done = command(paused_vm, {"exec-oob": "query-yank"})
    assert done["changed"] is False
    assert done["responses"][0]
    assert "out of band" in refused(paused_vm, {"exec-oob": "query-name"})["msg"]


def test_quit(start_vm: Callable[..., VM]) -> None:
    vm = start_vm()
    assert names(command(vm, "quit", check=True)) == ["quit"]
    assert vm.alive
    done = command(vm, "quit")
    assert (done["changed"], names(done), done["responses"]) == (True, ["quit"], [{}])
    vm.wait_exit()
    vm = start_vm()
    failed = refused(vm, "quit", "query-status", check=False)
    assert "commands[1]: query-status" in failed["msg"]
    assert names(failed) == ["quit"]
    vm = start_vm()
    line = {"execute": "human-monitor-command", "arguments": {"command-line": "quit"}}
    assert command(vm, line)["changed"]
    vm.wait_exit()


def test_a_migration_by_its_commands(start_vm: Callable[..., VM]) -> None:
    """Capabilities, the two ends, and how it went: what has no module of its own yet is done so."""
    source, target = start_vm(name="source"), start_vm(name="target", args=["-incoming", "defer"])
    uri = f"unix:{target.directory}/migration"
    capabilities = {
        "capabilities": [{"capability": "return-path", "state": True}, {"capability": "events", "state": True}]
    }
    ready = {"execute": "migrate-set-capabilities", "arguments": capabilities}
    for vm, start in ((target, "migrate-incoming"), (source, "migrate")):
        done = run_module(vm, "qemu_command", commands=[ready, {"execute": start, "arguments": {"uri": uri}}])
        assert done["changed"] and names(done) == ["migrate-set-capabilities", start]
        states = {item["capability"]: item["state"] for item in vm.observer.look("query-migrate-capabilities")}
        assert states["return-path"] is states["events"] is True
    assert run_module(source, "qemu_wait", status="postmigrate", timeout=30)["status"] == "postmigrate"
    assert source.observer.look("query-migrate")["status"] == "completed"
    told = run_module(source, "qemu_info", gather_subset=["migration"])["vm"]["migration"]
    assert told["status"] == "completed" and told["ram"]["transferred"] > 0
    assert target.observer.status() in ("prelaunch", "paused")  # stopped, as the source was


def test_a_dump_by_its_command(paused_vm: VM) -> None:
    path = f"{paused_vm.directory}/core"
    arguments = {"paging": "no", "protocol": f"file:{path}", "format": "elf"}
    done = run_module(paused_vm, "qemu_command", commands=[{"execute": "dump-guest-memory", "arguments": arguments}])
    assert done["commands"][0]["arguments"] == {**arguments, "paging": False}
    with open(path, "rb") as core:
        assert core.read(4) == b"\x7fELF"
    assert os.path.getsize(path) > 256 << 20


def test_by_real_ansible(paused_vm: VM, playbook: Callable[..., Any]) -> None:
    def task(name: str, *commands: Any) -> dict[str, Any]:
        return {"name": name, "vmm.qemu.qemu_command": {"socket": paused_vm.qmp, "commands": list(commands)}}

    tasks = [
        {**task("foretold", "query-status", "cont"), "check_mode": True},
        task("done", "query-status", "cont"),
        {**task("refused", "cont-"), "ignore_errors": True},
    ]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}])
    assert run["foretold"].changed
    assert run["foretold"].result["responses"] == [{**run["done"].result["responses"][0]}, None]
    assert run["done"].result["commands"] == [{"execute": "cont", "arguments": {}}]
    assert paused_vm.observer.status() == "running"
    assert run["refused"].status == "failed"
    assert "'cont'" in run["refused"].result["msg"]
