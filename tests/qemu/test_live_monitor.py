# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monitor for events, of a virtual machine that was started without one: QEMU 11.1 is given it while it runs."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.events import tell, watching
from support.modules import ModuleFailed, run_module
from support.observer import Observer
from support.roles import RUN, WITHOUT_EVENTS, Machines
from support.vm import VERSIONS, is_since, qemu_binary

LIVE = [version for version in VERSIONS if is_since(version, "11.1")]
OLD = [version for version in VERSIONS if version not in LIVE]
KILLED = """
import os, signal
from ansible_collections.vmm.qemu.plugins.module_utils._engine import apply
def send(step, vm, deadline, was=apply._send):
    if step.execute == {command!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    was(step, vm, deadline)
apply._send = send
"""
EVENTS = "vmm-events"


class Without(Machines):
    """vm1, which runs without a monitor for events, as QEMU's user where root runs the tests."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self.base.chmod(0o755)
        self.own = {"binary": str(qemu_binary(version)), "user": "nobody" if os.geteuid() == 0 else ""}
        self.events = self.base / "vm1" / "run" / "events"
        self.before = WITHOUT_EVENTS
        self.done(True)
        self.before = ""
        assert not self.events.exists()
        self.pid = self.processes()["vm1"]

    def run(self, check: bool = False, diff: bool = False, **variables: Any) -> Any:
        return super().run(check, diff, **{**self.own, **variables})

    def result(self, changed: bool, **how: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.done(changed, **how).tasks[-1].result
        assert not result["restart_required"] and self.processes() == {"vm1": self.pid}
        return result

    def differences(self) -> list[dict[str, Any]]:
        """What is told of it without changing anything."""
        monitor = str(self.events.with_name("qmp"))
        told = run_module(monitor, "qemu_info", gather_subset=["document"])["vm"]["document"]
        found: list[dict[str, Any]] = told["differences"]
        return found

    def there(self) -> tuple[bool, bool]:
        """Whether it has the character device, and the monitor on it."""
        with self.observer() as observer:
            return EVENTS in observer.chardevs(), EVENTS in observer.objects()


@pytest.fixture(params=LIVE)
def vms(request: pytest.FixtureRequest) -> Iterator[Without]:
    made = Without(request.param)
    yield made
    made.close()


def executed(result: dict[str, Any]) -> list[str]:
    return [command["execute"] for command in result["commands"]]


def test_it_is_added_while_it_runs(vms: Without) -> None:
    assert vms.differences() == [{"action": "add", "kind": "monitor", "id": str(vms.events), "changes": {}}]
    foretold = vms.result(True, check=True, diff=True)
    assert vms.there() == (False, False) and not vms.events.exists()
    done = vms.result(True, diff=True)
    assert executed(foretold) == executed(done) == ["chardev-add", "object-add"]
    assert {key: foretold[key] for key in ("plan", "summary", "diff")} == {
        key: done[key] for key in ("plan", "summary", "diff")
    }
    assert done["plan"] == [{"action": "add", "kind": "monitor", "id": str(vms.events), "changes": {}}]
    assert done["diff"] == {"before": {}, "after": {"monitor": {str(vms.events): {}}}}
    assert vms.there() == (True, True) and vms.differences() == []
    # as those that QEMU makes when it is started
    made, other = vms.events.stat(), vms.events.with_name("qmp").stat()
    assert (made.st_mode, made.st_uid, made.st_gid) == (other.st_mode, other.st_uid, other.st_gid)
    assert stat.S_ISSOCK(made.st_mode)

    async def story() -> None:
        async with watching(sockets=[str(vms.events)]) as heard:
            assert (await heard.next("connected"))["vm"] == "vm1"
            with vms.observer() as observer:
                observer.execute("cont")
                await heard.next("RESUME", vm="vm1")
                observer.execute("stop")
                await heard.next("STOP", vm="vm1")

    for _again in range(2):  # the one client goes, and the next one comes
        tell(story())
    for check in (True, False):
        for purge in (False, True):
            assert vms.result(False, check=check, purge=purge)["commands"] == []
    assert vms.there() == (True, True)


def test_it_has_it_on_its_command_line_from_the_next_start_on(vms: Without) -> None:
    vms.result(True)
    vms.done(True, memory="96M", restart_allowed=True)
    with vms.observer() as observer, contextlib.closing(Observer(str(vms.events))):
        assert EVENTS in observer.chardevs() and EVENTS in observer.objects()
    assert f"id={EVENTS}," in Path(f"/proc/{vms.processes()['vm1']}/cmdline").read_text()
    for check in (True, False):
        assert not vms.done(False, check=check, memory="96M").tasks[-1].result["restart_required"]
    vms.done(True, state="stopped")
    assert not vms.events.exists()


@pytest.mark.parametrize("command", ["getfd", "chardev-add", "object-add"])
def test_a_task_that_was_killed_on_the_way(vms: Without, command: str) -> None:
    vms.before = KILLED.format(command=command)
    assert vms.run().rc == -9
    vms.before = ""
    assert vms.there() == (command == "object-add", False) and vms.events.exists()
    for purge in (False, True):  # a purge of somebody else's does not take it away
        with contextlib.suppress(ModuleFailed):
            run_module(
                str(vms.events.with_name("qmp")), "qemu_machine", check=not purge, chardevs=[], objects=[], purge=True
            )
    assert vms.there() == (command == "object-add", False)
    left = ["object-add"] if command == "object-add" else ["chardev-add", "object-add"]
    for check in (True, False):
        assert executed(vms.result(True, check=check, purge=True)) == left
    assert vms.there() == (True, True)
    with contextlib.closing(Observer(str(vms.events))):
        assert vms.result(False, purge=True)["commands"] == []


def test_it_is_taken_back_with_all_else(vms: Without) -> None:
    junk = vms.base / "vm1" / "junk"
    junk.write_bytes(b"junk" * 1024)
    junk.chmod(0o666)
    said = vms.run(disks=[{"id": "bad", "filename": str(junk), "format": "qcow2", "bus": "rp2"}]).tasks[-1].result
    assert "not in qcow2 format" in said["msg"]
    assert [one["execute"] for one in said["rolled_back"]] == ["object-del", "chardev-remove"], said
    assert not said["commands"] and not said.get("not_rolled_back")
    assert vms.there() == (False, False) and not vms.events.exists()
    vms.result(True)


def test_what_is_at_its_path_stays(vms: Without) -> None:
    vms.events.write_text("a file")
    for check in (True, False):
        assert "is not a socket" in vms.refused(check=check)
    assert vms.events.read_text() == "a file"
    vms.events.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(vms.events))
        other.listen()
        for check in (True, False):
            said = vms.refused(check=check)
            assert f"events_socket: process {os.getpid()} (" in said and "listens at" in said
        assert vms.there() == (False, False)
        found = vms.events.stat().st_ino
    assert vms.events.stat().st_ino == found
    vms.result(True)  # nobody listens there any more
    with contextlib.closing(Observer(str(vms.events))):
        assert vms.there() == (True, True)


def test_one_that_was_made_by_hand_is_as_good(vms: Without) -> None:
    """By another name at the same path. And what has the name, but is somewhere else, is its owner's."""
    vms.done(True, user="", restart_allowed=True)
    vms.own["user"] = ""
    vms.done(True, state="stopped")
    vms.before = WITHOUT_EVENTS
    vms.done(True)
    vms.before = ""
    for ident, path in ((EVENTS, f"{vms.events}.mine"), ("mine", str(vms.events))):
        with vms.observer() as observer:
            add_monitor(observer, ident, path)
        for check in (True, False):
            assert vms.done(False, check=check).tasks[-1].result["commands"] == []
        with vms.observer() as observer:
            observer.execute("object-del", id="by-hand")
            observer.execute("chardev-remove", id=ident)
    vms.done(True)


def add_monitor(observer: Observer, chardev: str, path: str) -> None:
    backend = {
        "type": "socket",
        "data": {"addr": {"type": "unix", "data": {"path": path}}, "server": True, "wait": False},
    }
    observer.execute("chardev-add", id=chardev, backend=backend)
    observer.execute("object-add", **{"qom-type": "monitor-qmp", "id": "by-hand", "chardev": chardev})


def test_one_with_a_client_is_not_removed(vms: Without) -> None:
    vms.result(True)
    own = str(vms.events.with_name("qmp"))
    gone: dict[str, Any] = {"id": EVENTS, "state": "absent"}
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=f"chardev {EVENTS} is in use by monitor {EVENTS}"):
            run_module(own, "qemu_chardev", check=check, **gone)
        with contextlib.closing(Observer(str(vms.events))), pytest.raises(ModuleFailed, match="a client is connected"):
            run_module(own, "qemu_object", check=check, **gone)
        # nor the one that the task itself uses
        with pytest.raises(ModuleFailed, match="a client is connected"):
            run_module(str(vms.events), "qemu_object", check=check, **gone)
    assert vms.there() == (True, True)
    run_module(own, "qemu_object", **gone)
    assert vms.there() == (True, False)
    assert executed(vms.result(True)) == ["object-add"]


@pytest.mark.parametrize("version", OLD)
def test_an_older_qemu_gets_it_with_its_next_start(version: str) -> None:
    """And is no different for that."""
    with contextlib.closing(Without(version)) as vms:
        for check in (True, False):
            assert vms.result(False, check=check)["commands"] == []
        assert vms.files() - {"run/sockets"} == RUN - {"run/events"}
        vms.done(True, memory="96M", restart_allowed=True)
        assert "run/events" in vms.files()
