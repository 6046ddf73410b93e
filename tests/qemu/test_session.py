# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The session against real QEMUs: what only they can show."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import EventFilter
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.schema import Schema
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from support.timing import no_hang
from support.vm import wait_stopped


class Machine:
    """A QEMU without a machine: a monitor, a second one, one that is pretty, a serial port, and an HMP."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        arguments = ["qemu-system-x86_64", "-M", "none", "-accel", "tcg", "-nodefaults", "-display", "none"]
        for name in ("a", "b"):
            arguments += ["-qmp", f"unix:{directory}/{name},server=on,wait=off"]
        arguments += ["-chardev", f"socket,id=p,path={directory}/pretty,server=on,wait=off"]
        arguments += ["-mon", "chardev=p,mode=control,pretty=on"]
        arguments += ["-chardev", f"socket,id=s,path={directory}/serial,server=on,wait=off", "-serial", "chardev:s"]
        arguments += ["-monitor", f"unix:{directory}/hmp,server=on,wait=off"]
        self.process = subprocess.Popen(arguments)
        until = time.monotonic() + 30
        while not (directory / "hmp").exists():
            assert self.process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)

    def connect(self, name: str = "a", **options: Any) -> QMPSession:
        return QMPSession.connect(self.directory / name, **options)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("q"))
    yield made
    made.close()


def test_commands_events_and_errors(machine: Machine) -> None:
    with machine.connect() as session:
        assert session.version >= (5, 2)
        assert session.oob
        assert session.execute("query-status")["running"] in (True, False)
        session.execute("cont")
        assert session.execute("stop", wait_for=EventFilter("STOP"), timeout=10) == {}
        assert isinstance(session.execute("query-yank", oob=True), list)
        with pytest.raises(errors.CommandNotFound):
            session.execute("no-such-command")
        with pytest.raises(errors.DeviceNotFound):
            session.execute("device_del", {"id": "none"})
        with pytest.raises(errors.CommandTimeout) as caught:
            session.execute("stop", wait_for=EventFilter("STOP"), timeout=0.1)  # it is stopped: no event
        assert caught.value.phase == "event"
        assert session.execute("query-name") == {}


def test_schema(machine: Machine) -> None:
    with machine.connect() as session:
        schema = Schema(session.execute("query-qmp-schema"))
    assert schema.has("blockdev-add", "driver=qcow2", "file", "driver=file", "filename")
    assert not schema.has("netdev_add", "type=user", "no-such-member")
    wanted = {"qom-type": "memory-backend-ram", "id": "m0", "size": 2 << 20}
    given = {"qom-type": "memory-backend-ram", "id": "m0", "size": "2M"}
    if schema.has("object-add", "qom-type=memory-backend-ram", "size"):
        assert schema.coerce("object-add", given) == wanted
        with machine.connect() as session:
            assert session.execute("object-add", schema.coerce("object-add", given)) == {}


def test_pretty(machine: Machine) -> None:
    with machine.connect("pretty") as session, machine.connect() as plain:
        assert session.execute("query-qmp-schema") == plain.execute("query-qmp-schema")


def test_a_human_monitor_is_named(machine: Machine) -> None:
    with no_hang(0.0), pytest.raises(errors.NegotiationError, match="HMP"):
        machine.connect("hmp", timeout=60)


def test_busy_names_this_process(machine: Machine) -> None:
    with machine.connect():
        with pytest.raises(errors.MonitorBusy, match=str(os.getpid())):
            machine.connect(timeout=0.2)
        with machine.connect("b") as other:
            other.execute("query-status")
    with machine.connect() as again:
        again.execute("query-status")


def test_a_serial_port_is_not_taken_for_a_busy_monitor(machine: Machine) -> None:
    with no_hang(0.3), pytest.raises(errors.ConnectError, match="this is not a QMP monitor") as caught:
        machine.connect("serial", timeout=0.3)
    assert "end that client" not in str(caught.value)


def test_a_qemu_that_stands_still_is_not_taken_for_something_else(machine: Machine) -> None:
    os.kill(machine.process.pid, signal.SIGSTOP)
    wait_stopped(machine.process.pid)
    with no_hang(0.3), pytest.raises(errors.MonitorBusy, match="or QEMU does not answer") as caught:
        machine.connect(timeout=0.3)
    assert "not a QMP monitor" not in str(caught.value)
    os.kill(machine.process.pid, signal.SIGCONT)
    with machine.connect() as session:
        session.execute("query-status")


def test_descriptors(machine: Machine) -> None:
    with machine.connect() as session, open("/dev/null", "rb") as file:
        assert session.execute("getfd", {"fdname": "x"}, fds=[file.fileno()]) == {}
        os.fstat(file.fileno())
        assert session.execute("closefd", {"fdname": "x"}) == {}
        with pytest.raises(errors.CommandError):
            session.execute("getfd", {"fdname": "y"})


def test_connecting_while_another_client_toggles(machine: Machine) -> None:
    """Events before the greeting and replies of earlier clients are real; each client gets only its own."""
    stop = threading.Event()

    def toggle() -> None:
        with machine.connect("b") as session:
            while not stop.is_set():
                session.execute("cont")
                session.execute("stop")

    thread = threading.Thread(target=toggle, daemon=True)
    thread.start()
    for number in range(200):
        with machine.connect(timeout=10) as session:
            assert session.execute("query-version")["qemu"]["major"] == session.version.major
            if number % 4 == 0:
                with pytest.raises(errors.CommandTimeout):
                    session.execute("query-qmp-schema", timeout=0.001)
    stop.set()
    thread.join(10)


def test_stopped_process_is_a_timeout(machine: Machine) -> None:
    import signal

    with machine.connect() as session:
        machine.process.send_signal(signal.SIGSTOP)
        wait_stopped(machine.process.pid)
        with pytest.raises(errors.CommandTimeout) as caught:
            session.execute("query-status", timeout=0.1)
        assert caught.value.phase == "reply"
        with pytest.raises(errors.CommandTimeout) as caught:
            session.execute("x", {"x": "y" * 2_000_000}, timeout=0.1)
        assert caught.value.phase == "queue"
        machine.process.send_signal(signal.SIGCONT)
        assert "running" in session.execute("query-status", timeout=30)


def test_quit(machine: Machine) -> None:
    with machine.connect() as session:
        try:
            session.execute("quit", timeout=10)
        except errors.Disconnected as error:
            assert error.outcome_unknown
        machine.process.wait(10)
        with pytest.raises(errors.Disconnected):
            session.execute("query-status")
        assert session.closed


def test_killed(machine: Machine) -> None:
    with machine.connect() as session:
        threading.Timer(0.1, machine.process.kill).start()
        with pytest.raises(errors.Disconnected):
            session.wait_event(EventFilter("NEVER"), timeout=10)
