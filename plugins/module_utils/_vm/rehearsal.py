# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A VM that is like the one to come, for check mode to plan against: the same machine, with nothing of the host in it.

What would be plugged in depends on QEMU's version and on the machine's buses, which only QEMU knows. This one has no guest
that could run, its disks are empty and its lines lead nowhere; it is ended when the plan is made.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import shutil
from typing import Any, Dict, Iterator, List

from .._core.task import Task
from .._core.vm import VM
from .._host import command_line, process
from .._kinds.blockdev_image import virtual_size
from .._qmp.address import parse
from .._qmp.deadline import Deadline
from .._qmp.session import QMPSession

# What makes the machine. All else of a command line opens something of the host's.
_MACHINE = ("nodefaults", "no-user-config", "display", "machine", "M", "accel", "cpu", "smp", "m", "numa", "global")
_SECONDS = 20.0


@contextlib.contextmanager
def rehearsal(task: Task, binary: str, arguments: Dict[str, Any], coming: Dict[str, int | None]) -> Iterator[VM]:
    """Yield the VM. ``coming``: the paths that the task would make. Raise Refusal or QMPError where it does not start."""
    import tempfile

    where = tempfile.mkdtemp(prefix="vmm-qemu-")
    address = parse(f"{where}/qmp")
    deadline = Deadline(min(_SECONDS, task.deadline.remaining() or 0.0), task.deadline.stop)
    own = [*command_line.monitor(address), "-pidfile", f"{where}/pid"]
    line = [
        binary,
        *command_line.enclose("rehearsal", own, ["-S", *command_line.expand(_without_host(arguments, coming))]),
    ]
    mark = process.new_mark()
    try:
        process.launch(line, mark, deadline, lambda: "")
        session = QMPSession.connect(str(address), timeout=deadline.remaining() or 0.1, read_only=True)
        try:
            vm = VM(session, deadline, local=True, reopen=lambda seconds: session)
            vm.coming = coming
            yield vm
        finally:
            session.close()
    finally:
        process.kill(mark)
        shutil.rmtree(where, ignore_errors=True)


def _without_host(arguments: Dict[str, Any], coming: Dict[str, int | None]) -> Dict[str, Any]:
    """Return the arguments of the same machine, without what is the host's. Its disks are as large as those."""
    kept = {name: value for name, value in arguments.items() if name in _MACHINE}
    for name, stand_in in _STAND_INS.items():
        kept[name] = [made for item in _listed(arguments.get(name, [])) for made in stand_in(_pairs(item))]
    for node, item in zip(kept["blockdev"], filter(_node, map(_pairs, _listed(arguments.get("blockdev", []))))):
        node.update(_size(item, coming))
    return {name: value for name, value in kept.items() if value != []}


def is_whole(arguments: Dict[str, Any]) -> bool:
    """Tell whether a rehearsal has all devices and objects of the arguments, which others can stand on."""
    return all(
        _STAND_INS[name](_pairs(item)) for name in ("device", "object") for item in _listed(arguments.get(name, []))
    )


def _listed(value: Any) -> List[Any]:
    return value if isinstance(value, list) else [value]


def _pairs(item: Any) -> Dict[str, Any]:
    """Return an option's value, a text or a dictionary, as a dictionary; what has no key is under an empty one."""
    if isinstance(item, dict):
        return item
    pairs: Dict[str, Any] = {}
    for part in str(item).replace(",,", "\0").split(","):
        key, equals, value = part.partition("=")
        pairs[key if equals else ""] = (value if equals else key).replace("\0", ",")
    return pairs


def _node(pairs: Dict[str, Any]) -> List[Any]:
    name = pairs.get("node-name")
    return [{"driver": "null-co", "node-name": name, "read-zeroes": True}] if name else []


def _size(pairs: Dict[str, Any], coming: Dict[str, int | None]) -> Dict[str, int]:
    """Return the size of a node's image, as far as that is known."""
    file = pairs.get("file")
    path = file.get("filename") if isinstance(file, dict) else None
    if not isinstance(path, str):
        return {}
    size = coming[path] if path in coming else virtual_size(path, str(pairs.get("driver")))
    return {"size": size} if size else {}


def _drive(pairs: Dict[str, Any]) -> List[Any]:
    ident = pairs.get("id")
    return [{"if": "none", "id": ident, "file.driver": "null-co", "read-only": "off"}] if ident else []


def _chardev(pairs: Dict[str, Any]) -> List[Any]:
    return [{"backend": "null", "id": pairs["id"]}] if "id" in pairs else []


def _netdev(pairs: Dict[str, Any]) -> List[Any]:
    return [f"user,id={pairs['id']}"] if "id" in pairs else []


def _device(pairs: Dict[str, Any]) -> List[Any]:
    driver = str(pairs.get("driver", pairs.get("", "")))
    if driver.startswith(("vfio", "vhost")):
        return []
    return [{"driver": driver, **{key: value for key, value in pairs.items() if key not in ("", "driver")}}]


def _object(pairs: Dict[str, Any]) -> List[Any]:
    kind = str(pairs.get("qom-type", pairs.get("", "")))
    if kind.startswith(("iothread", "rng-builtin", "throttle-group")):
        return [{"qom-type": kind, **{key: value for key, value in pairs.items() if key not in ("", "qom-type")}}]
    if kind.startswith("memory-backend") and "size" in pairs:
        return [{"qom-type": "memory-backend-ram", "id": pairs.get("id"), "size": pairs["size"]}]
    return []


_STAND_INS = {
    "object": _object,
    "chardev": _chardev,
    "netdev": _netdev,
    "blockdev": _node,
    "drive": _drive,
    "device": _device,
}
