# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Tap interfaces of the host that QEMU's user may open, as a kind. Linux's ``/sys/class/net`` tells, ``ip`` does."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from .._core.errors import OperationFailed, Refusal
from .._core.option import Option, Want
from .._core.step import Step
from .._engine.comparison import Item
from .._host import program
from .._kinds.kind import Change, Kind, State
from .._qmp.deadline import Deadline

if TYPE_CHECKING:
    from .._core.host import Host
    from .._core.plan import Draft
    from .options import Place

_NET = "/sys/class/net"
_TAP = 0x2  # IFF_TAP
_UP = 0x1  # IFF_UP
_UNDO_SECONDS = 5.0
# The kernel's rule (dev_valid_name), and nothing that ip could take for an option.
_NAME = re.compile(r"[^\s/:%-][^\s/:%]{0,14}\Z")


class Tap(Kind):
    """A tap. One that is there is used, and removed only if it bears the mark that this collection gives to its own."""

    name = "tap"
    keys = ("name",)
    returned = False
    kept_for_removal = ("mark",)
    options = {"name": Option("str"), "bridge": Option("str"), "user": Option("str"), "mark": Option("str")}
    changeable_keys = frozenset(("up", "bridge"))

    def check(self, want: Want) -> None:
        """Raise Refusal for a name that no interface can have."""
        for key in ("name", "bridge"):
            if key in want and (not _NAME.match(want[key]) or want[key] in (".", "..")):
                raise Refusal(f"taps: {want[key]!r} is not a valid name of an interface: it has at most 15 characters")

    def read(self, host: Host, want: Want) -> State | None:
        """Return whether it is up, and on which bridge. Raise Refusal for an interface that is not a tap."""
        name = want["name"]
        path = f"{_NET}/{name}"
        if not os.path.isdir(path):
            return None
        if "user" not in want and _read(path, "ifalias") != want["mark"]:
            return None  # it is to go, and was not made here
        if not int(_read(path, "tun_flags") or "0", 16) & _TAP:
            raise Refusal(
                f"taps: {name} is there and is not a tap{_kind(path)}. Give the tap a name of its own; what it is put on is "
                "its bridge"
            )
        state: State = {"name": name, "up": bool(int(_read(path, "flags") or "0", 16) & _UP)}
        with contextlib.suppress(OSError):
            state["bridge"] = os.path.basename(os.readlink(f"{path}/master"))
        return state

    def wanted(self, host: Host, want: Want) -> State:
        """Return the same as it shall be."""
        bridge = {"bridge": want["bridge"]} if "bridge" in want else {}
        return {"name": want["name"], "up": True, **bridge}

    def compare(self, have: State, want: State) -> tuple[List[Change], List[str]]:
        """Return what differs; one that is on no bridge can be told."""
        changes, _untold = super().compare({"bridge": None, **have}, want)
        return changes, []

    def create(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that makes it, and the one that brings it up."""
        name = want["name"]
        if "bridge" in want and not os.path.isdir(f"{_NET}/{want['bridge']}/bridge"):
            raise Refusal(
                f"taps: {name} is to be put on the bridge {want['bridge']}, and there is no bridge of that name"
            )
        user = ["user", want["user"]] if want.get("user") else []
        lines = [
            ["ip", "tuntap", "add", "dev", name, "mode", "tap", *user],
            ["ip", "link", "set", "dev", name, "alias", want["mark"]],
        ]
        delete = [["ip", "link", "delete", "dev", name]]

        def make(deadline: Deadline) -> None:
            program.run(lines[0], deadline, f"taps: {name}")
            try:
                program.run(lines[1], deadline, f"taps: {name}")
            except BaseException:
                with contextlib.suppress(OperationFailed):  # why it is taken back matters more
                    program.run(delete[0], Deadline(_UNDO_SECONDS), f"taps: {name}")
                raise

        undo = Step(do=lambda deadline: _run(delete, name, deadline), command_lines=delete, removes=True)
        return [Step(do=make, command_lines=lines, undo=[undo]), _up(name, want.get("bridge"))]

    def change(self, host: Host, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the step that brings it up on its bridge."""
        name, bridge = want["name"], want.get("bridge")
        before = ["master", have["bridge"]] if "bridge" in have else ["nomaster"] if bridge else []
        line = ["ip", "link", "set", "dev", name, "up" if have["up"] else "down", *before]
        undo = Step(do=lambda deadline: _run([line], name, deadline), command_lines=[line])
        return [_up(name, bridge).replace(undo=[undo])]

    def remove(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that removes it."""
        name = want["name"]
        line = ["ip", "link", "delete", "dev", name]
        return [Step(do=lambda deadline: _run([line], name, deadline), command_lines=[line], removes=True)]


def _up(name: str, bridge: str | None) -> Step:
    line = ["ip", "link", "set", "dev", name, "up", *(["master", bridge] if bridge else [])]
    return Step(
        do=lambda deadline: _run([line], name, deadline), command_lines=[line], undo=[Step(do=_nothing, hidden=True)]
    )


def _nothing(deadline: Deadline) -> None:
    """Do nothing: with the tap all of it goes."""


def _run(lines: List[List[str]], name: str, deadline: Deadline) -> None:
    if os.path.isdir(f"{_NET}/{name}"):
        for line in lines:
            program.run(line, deadline, f"taps: {name}")


def _read(path: str, name: str) -> str:
    """Return what the kernel says of an interface; empty where it says nothing."""
    try:
        with open(f"{path}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _kind(path: str) -> str:
    """Return what an interface is, in brackets, as far as that is told."""
    found = "bridge" if os.path.isdir(f"{path}/bridge") else ""
    for line in _read(path, "uevent").splitlines():
        if line.startswith("DEVTYPE="):
            found = line[len("DEVTYPE=") :]
    return f" but a {found}" if found else ""


def mark(place: Place) -> str:
    """Return what is written to a tap that was made for a VM."""
    return f"vmm-qemu {place.name}"


def taps(listed: Sequence[Dict[str, Any]], user: str | None, place: Place) -> List[Item]:
    """Return the items of a list of taps, as a task or a record has it."""
    return [
        Item(
            TAP,
            {
                "user": user or "",
                "mark": mark(place),
                **{key: value for key, value in one.items() if value is not None},
            },
        )
        for one in listed
    ]


TAP = Tap()
