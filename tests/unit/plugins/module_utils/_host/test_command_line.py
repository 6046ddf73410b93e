# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a command line is a secret, and what only looks like one."""

from __future__ import annotations

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import REDACTED
from ansible_collections.vmm.qemu.plugins.module_utils._host import command_line


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("-vnc", "127.0.0.1:1,password=on", "127.0.0.1:1,password=on"),
        ("-vnc", "127.0.0.1:1,password=off,sasl=on", "127.0.0.1:1,password=off,sasl=on"),
        ("-vnc", "127.0.0.1:1,password-secret=s0", "127.0.0.1:1,password-secret=s0"),
        ("-vnc", "127.0.0.1:1,password=once", f"127.0.0.1:1,password={REDACTED}"),
        ("-vnc", "127.0.0.1:1,password=on,,more,sasl=on", f"127.0.0.1:1,password={REDACTED},sasl=on"),
        ("-object", "secret,id=s0,data=on", f"secret,id=s0,data={REDACTED}"),
    ],
)
def test_on_and_off_are_no_passwords(option: str, value: str, shown: str) -> None:
    assert command_line.redact([option, value]) == [option, shown]
    told = list(command_line.secrets([value]))
    assert bool(told) == ("password=once" in value or "more" in value)


def test_where_character_devices_write_what_they_say() -> None:
    words = [
        "-chardev",
        "socket,id=c,path=/p,logfile=/a,,b,logappend=on",
        "-device",
        "x,logfile=/no",
        "-chardev",
        "null,id=n",
    ]
    assert list(command_line.logfiles(words)) == ["/a,b"]


@pytest.mark.parametrize(
    ("machine", "kind"),
    [
        ("type=q35,accel=tcg", "q35"),
        ("q35", "q35"),
        ("q35,accel=tcg", "q35"),
        ("accel=tcg,type=pc-q35-7.2", "pc-q35-7.2"),
        ("accel=tcg", None),
    ],
)
def test_the_machine_type(machine: str, kind: str | None) -> None:
    line = ["qemu", "-name", "vm1", "-machine", machine, "-device", "type=q35"]
    assert command_line.machine_type(line) == kind
    changed = command_line.with_machine_type(line, "pc-q35-7.2")
    assert changed == [*line[:4], machine.replace(kind, "pc-q35-7.2") if kind else machine, *line[5:]]


MADE = ["-chardev", "null,id=x", "-qmp", "chardev:vmm-qmp", "-monitor", "chardev:monitor"]
BY_MON = [*MADE[:2], "-mon", "chardev=vmm-qmp,mode=control", "-mon", "chardev=monitor,mode=readline"]
AS_OBJECTS = [
    *MADE[:2],
    *("-object", "monitor-qmp,id=vmm-qmp,chardev=vmm-qmp"),
    *("-object", "monitor-hmp,id=monitor,chardev=monitor"),
]


@pytest.mark.parametrize("other", [BY_MON, AS_OBJECTS])
def test_by_which_option_a_monitor_is_made_is_no_difference(other: list[str]) -> None:
    assert command_line.same(other, ["qemu", *MADE]) and command_line.same(MADE, ["qemu", *other])
    assert command_line.enclose("vm1", [], other) == command_line.enclose("vm1", [], MADE)
    assert command_line.enclose("vm1", [], MADE)[2:-1] == MADE


def test_two_monitors_of_one_name() -> None:
    """QEMU names a monitor that -qmp makes like its character device. A multiplexer may have two, of which one has no name."""
    two = [*BY_MON[4:], *BY_MON[4:]]
    line = command_line.enclose("vm1", [], two)
    assert line[2:-1] == [*MADE[4:], *BY_MON[4:]]
    assert command_line.same(line, ["qemu", *line]) and command_line.same(
        line, ["qemu", "-name", "vm1", *two, line[-1]]
    )
    for theirs in ("chardev=mine,mode=control,id=vmm-qmp", "id=monitor,chardev=mine"):
        with pytest.raises(Refusal, match=r"another monitor has the id (vmm-qmp|monitor): give this one another"):
            command_line.enclose("vm1", MADE[2:4], ["-mon", theirs, *MADE[4:]])


@pytest.mark.parametrize(
    "theirs",
    [
        ["-mon", "chardev=own,mode=control"],
        ["-mon", "chardev=monitor,mode=control,pretty=on"],
        ["-append", "chardev=vmm-qmp,mode=control"],
        ["-object", "monitor-qmp,id=own,chardev=vmm-qmp"],
    ],
)
def test_a_users_monitor_is_left_as_it_is(theirs: list[str]) -> None:
    assert command_line.enclose("vm1", [], theirs)[2:-1] == theirs
    assert not command_line.same(theirs, MADE[2:4])


BEGINS = ["-name", "vm1"]
EVENTS = ["-chardev", "socket,id=vmm-events,path=/e,server=on,wait=off", "-qmp", "chardev:vmm-events"]


@pytest.mark.parametrize(
    ("wanted", "running", "only_wanted", "only_running"),
    [
        (["-m", "1G"], ["-m", "1G"], [], []),
        (["-m", "2G", "-no-reboot"], ["-m", "1G"], ["-m 2G", "-no-reboot"], ["-m 1G"]),
        # of one option there can be several, and in another order
        (["-device", "a", "-device", "b"], ["-device", "b", "-device", "a", "-device", "a"], [], ["-device a"]),
        # how a guest begins, and a monitor for events, make no other machine
        (["-m", "1G", "-S", *EVENTS], ["-m", "1G", "-incoming", "defer"], [], []),
        (["-qmp", "chardev:vmm-events2"], [], ["-qmp chardev:vmm-events2"], []),
        # by which option a monitor is made, neither
        (BY_MON, AS_OBJECTS, [], []),
        ([], ["-object", "secret,id=s0,data=hush"], [], [f"-object secret,id=s0,data={REDACTED}"]),
    ],
)
def test_what_two_command_lines_do_not_share(
    wanted: list[str], running: list[str], only_wanted: list[str], only_running: list[str]
) -> None:
    lines = [["qemu", *BEGINS, *options, "-daemonize"] for options in (wanted, running)]
    lines[1][:1] = ["/usr/bin/qemu", "-L", "/a/wrapper's"]
    assert command_line.unlike(lines[0], lines[1]) == (only_wanted, only_running)
