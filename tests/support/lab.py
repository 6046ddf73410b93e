# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One QEMU for many random examples, and sessions that do harm at a chosen step."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM as Seen
from ansible_collections.vmm.qemu.plugins.module_utils._machine.differences import differences
from ansible_collections.vmm.qemu.plugins.module_utils._machine.machine import MACHINE
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import wire
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.queries import is_query
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from ansible_collections.vmm.qemu.plugins.modules import qemu_machine
from support.generators import LIVE_SLOTS, SLOTS
from support.modules import ModuleFailed
from support.observer import ObserverError
from support.state import KINDS, Item, State, read_state
from support.vm import VM, is_since
from support.vm_states import BED, MIB, Part

_REMOVERS = {kind.name: (kind.removal, kind.key) for kind in KINDS}
# One that every QEMU refuses, with no class of its own and no text that anybody tries again on.
_REFUSED = ("qom-set", {"path": "/machine", "property": "no-such-property", "value": 1})


class Lab:
    """A VM without a guest that is brought back to what it was started with before each example."""

    slots: tuple[str, ...] = SLOTS
    """What there can be in its worlds."""
    _tidies_in = 5.0
    _pause = 0.0

    def __init__(self, version: str) -> None:
        self.version = version
        self._vm: VM | None = None
        self._clean: State = {}
        self._sizes: dict[str, tuple[str, bytes]] = {}

    @property
    def vm(self) -> VM:
        assert self._vm is not None, "no example has begun"
        return self._vm

    def close(self) -> None:
        if self._vm is not None:
            self._vm.close()
            self._vm = None

    def reset(self) -> None:
        """Nothing but what it was started with, with fresh images. A new QEMU where that can't be had."""
        if self._vm is None or not self._vm.alive or not self._tidy():
            self.close()
            self._vm = self._start()
            self._clean = self.state()
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self._template("qcow2"), str(MIB)], check=True)
        for path, fmt in images(self.directory):
            if fmt == "raw":
                with open(path, "wb") as image:
                    image.truncate(MIB)
            else:
                shutil.copyfile(self._template(fmt), path)

    def _start(self) -> VM:
        return VM(self.version, scsi=True, args=BED)

    @property
    def directory(self) -> str:
        return str(self.vm.directory)

    def _template(self, fmt: str) -> str:
        return f"{self.directory}/template.{fmt}"

    def state(self) -> State:
        """What is there, over the second monitor."""
        return read_state(self.vm.observer)

    def _tidy(self) -> bool:
        """Remove all that can be removed, in as many rounds as things stand on each other."""
        look = self.vm.observer
        if look.status() == "running" and not self.vm.guest:
            look.execute("stop")
        deadline = time.monotonic() + self._tidies_in
        while time.monotonic() < deadline:
            state = self.state()
            if state == self._clean:
                return True
            for table, name in state.keys() - self._clean.keys():
                command, key = _REMOVERS[table]
                try:
                    look.send(command, {key: name})
                except ObserverError:  # something stands on it still
                    continue
            time.sleep(self._pause)
        return False

    def make(self, parts: Iterable[Part]) -> None:
        """As an administrator would by hand."""
        for part in parts:
            data = part.arguments.get("backend", {}).get("data", {})
            if "reconnect" in data and is_since(self.vm.version, "10.0"):  # 11.1 does not know it any more
                data["reconnect-ms"] = 1000 * data.pop("reconnect")
            self.vm.observer.send(part.command, part.arguments)

    def settle(self, sent: bytes) -> None:
        """Wait for what QEMU has been asked for and the guest has not done yet. Here everything is done at once."""

    # -- running the task ------------------------------------------------------

    def run(
        self, document: dict[str, Any], *, check: bool = False, harm: Harm | None = None, socket: str | None = None
    ) -> dict[str, Any]:
        """The task's result, at the VM's own monitor or at another address. Raises ModuleFailed, and what `harm` raises."""
        from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

        module = qemu_machine.MODULE
        checked = ArgumentSpecValidator(module.argument_spec).validate({**document, "socket": socket or self.vm.qmp})
        assert not checked.error_messages, checked.error_messages
        opened: Callable[..., Any] = harm.connect if harm else self._through if socket else QMPSession.connect
        result: dict[str, Any] = module.run(
            checked.validated_parameters, check_mode=check, diff_mode=True, open_session=opened
        )
        if result.get("failed"):
            if not self.vm.alive:  # that may be QEMU's own fault
                print(f"QEMU {self.version} is gone (exit {self.vm.exit_code}): {self.vm.stderr}")
            raise ModuleFailed(result)
        return result

    def differences(self, document: dict[str, Any]) -> set[tuple[str, str, str]]:
        """What is told to differ, by kind, id and what would be done; of nothing else it can't be told."""
        with QMPSession.connect(self.vm.qmp, timeout=60.0, read_only=True) as session:
            vm = Seen(session, Deadline(60.0), local=True, reopen=lambda seconds: session)
            found, untold = differences(vm, {key: value for key, value in document.items() if key in MACHINE})
        assert untold == []
        return {(one["kind"], one["id"], one["action"]) for one in found}

    def _through(self, *args: Any, **how: Any) -> Any:
        """A session over something in between, which none the less tells QEMU's process: for purge, which asks that."""
        return _Through(QMPSession.connect(*args, **how), self.vm.pid)

    def run_and_kill(self, document: dict[str, Any], step: int, *, sent: bool) -> bool:
        """The task in a process of its own, killed by SIGKILL as the step comes, or once its command is on the wire.

        Whether it came to that.
        """
        child = os.fork()
        if child == 0:
            try:
                self.run(document, harm=Kill(step, sent))
            finally:
                os._exit(0)
        _pid, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


class LiveLab(Lab):
    """A VM whose guest gives back, in its own time, what was plugged into PCI."""

    slots = LIVE_SLOTS
    _tidies_in = 60.0
    _pause = 0.2
    _uses = 0

    def _start(self) -> VM:
        self._uses = 0
        more = ("-smp", "1,maxcpus=32")
        return VM(self.version, guest=True, scsi=True, args=(*BED, *more), memory="256,slots=4,maxmem=1G")

    def reset(self) -> None:
        self._uses += 1
        if self._uses > 6:  # without KVM, QEMU 10.0 dies of more CPUs than maxcpus, those that have gone included
            self.close()
        super().reset()

    def vcpus(self) -> int:
        """How many there are."""
        return sum("qom-path" in slot for slot in self.vm.observer.look("query-hotpluggable-cpus"))

    def settle(self, sent: bytes) -> None:
        """A request of a task that is gone is answered all the same; until then a device looks as if it were there for good."""
        look, deadline = self.vm.observer, time.monotonic() + 60
        asked = asked_for(sent)
        while asked & look.devices().keys() and time.monotonic() < deadline:
            time.sleep(0.05)


_PLUGGING = re.compile(rb'{"execute":"device_(add|del)","arguments":({.*?}),"id":"[^"]*"}')


def asked_for(sent: bytes) -> set[str]:
    """The ids of the devices that QEMU was asked to remove, and not to add again after that."""
    asked: set[str] = set()
    for verb, arguments in _PLUGGING.findall(sent):
        (asked.add if verb == b"del" else asked.discard)(json.loads(arguments)["id"])
    return asked


class Killed(BaseException):
    """The task is gone: nothing of it runs any more."""


class Harm:
    """A way to open sessions that do harm at the command number `step`, counted from 0, of those that change the VM."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.struck = False

    def connect(self, *args: Any, **how: Any) -> Any:
        if self.struck and isinstance(self, Stop):
            raise Killed
        return _Session(QMPSession.connect(*args, **how), self)

    def meet(self, session: QMPSession, name: str, arguments: dict[str, Any], **how: Any) -> Any:
        """What happens to a command that changes the VM."""
        number = len(self.seen)
        self.seen.append((name, arguments))
        if number == self.step:
            self.struck = True
            return self.strike(session, name, arguments, **how)
        return session.execute(name, arguments, **how)

    def strike(self, session: QMPSession, name: str, arguments: dict[str, Any], **how: Any) -> Any:
        raise NotImplementedError


class Refuse(Harm):
    """QEMU refuses the command."""

    def strike(self, session: QMPSession, name: str, arguments: dict[str, Any], **how: Any) -> Any:
        return session.execute(*_REFUSED, **how)


class Stop(Harm):
    """The task is gone before the command, or after QEMU has carried it out."""

    def __init__(self, step: int, done: bool) -> None:
        super().__init__(step)
        self.done = done

    def strike(self, session: QMPSession, name: str, arguments: dict[str, Any], **how: Any) -> Any:
        if self.done:
            session.execute(name, arguments, **how)
        raise Killed


class Kill(Harm):
    """The process that runs the task is killed."""

    def __init__(self, step: int, sent: bool) -> None:
        super().__init__(step)
        self.sent = sent

    def strike(self, session: QMPSession, name: str, arguments: dict[str, Any], **how: Any) -> Any:
        if self.sent:
            send = wire.Transport.send

            def last(transport: Any, *message: Any) -> None:
                send(transport, *message)
                os.kill(os.getpid(), signal.SIGKILL)

            wire.Transport.send = last  # type: ignore[method-assign,assignment]
            session.execute(name, arguments, **how)
        os.kill(os.getpid(), signal.SIGKILL)


class _Session:
    """A session, but for the commands that change the VM."""

    def __init__(self, session: QMPSession, harm: Harm) -> None:
        self._session = session
        self._harm = harm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def execute(self, name: str, arguments: dict[str, Any] | None = None, **how: Any) -> Any:
        if self._harm.struck and isinstance(self._harm, Stop):
            raise Killed
        if is_query(name, arguments or {}):
            return self._session.execute(name, arguments, **how)
        return self._harm.meet(self._session, name, arguments or {}, **how)


class _Through:
    def __init__(self, session: QMPSession, process: int) -> None:
        self._session = session
        self.process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def named_in(arguments: dict[str, Any]) -> str:
    """The id of the thing that a command is about."""
    if "options" in arguments:  # blockdev-reopen
        return str(arguments["options"][0]["node-name"])
    if "path" in arguments:
        return str(arguments["path"]).rpartition("/")[2]
    return str(arguments.get("id") or arguments.get("node-name"))


TABLE_OF = {command: kind.name for kind in KINDS for command in (*kind.commands, kind.removal)}


def item_of(command: str, arguments: dict[str, Any]) -> Item:
    """The thing that a command is about."""
    return TABLE_OF[command], named_in(arguments)


def images(directory: str) -> Iterator[tuple[str, str]]:
    """Every image that some world may use: path and format."""
    for name in LIVE_SLOTS:
        if name[0] in "btdv":
            for number in (0, 1):
                for fmt in ("raw", "qcow2"):
                    yield f"{directory}/{name}.{number}.{fmt}", fmt
