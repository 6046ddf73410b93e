# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""How a VM comes to its end: the power button until the guest has shut down, and QEMU until its process is gone."""
# Private to the collection: may change without notice.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable, List

from .._core.errors import NotDoneInTime, Refusal
from .._core.process import Process
from .._core.step import Step, Wait
from .._qmp import errors

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._qmp.events import Event

_POLL = 0.02
_GRACE_SECONDS = 2.0
NOT_BEGUN = ("preconfig", "prelaunch", "inmigrate")
"""The states in which the guest has not run yet."""
# There is no guest in it that could lose anything: it has not begun, is elsewhere, or has come to its end.
_NO_GUEST = (*NOT_BEGUN, "postmigrate", "shutdown", "guest-panicked", "internal-error")


class Ignored(NotDoneInTime):
    """The guest did not answer the power button in the time it had."""


class PoweredDown(Wait):
    """The end of ``system_powerdown``: SHUTDOWN, or the state ``shutdown``. A booting guest loses the request."""

    resend_every = 2.5
    loses_connection = True

    def __init__(self, seconds: float, optional: bool = False) -> None:
        """``seconds``: how long it is waited for. ``optional``: whether the plan goes on after that."""
        self.seconds = seconds
        self.optional = optional

    def is_end(self, event: Event) -> bool:
        """Tell whether it is SHUTDOWN, whoever caused it."""
        return event.name == "SHUTDOWN"

    def is_done(self, vm: VM) -> bool:
        """Tell whether QEMU has gone, or stays in the state ``shutdown``, as it does with ``-no-shutdown``."""
        return vm.session.closed or vm.status == "shutdown"

    def timeout_error(self, vm: VM) -> Exception:
        """Return that the guest did not answer."""
        return Ignored(
            f"the guest did not shut down within {self.seconds:.4g} s: it may ignore the power button, still be "
            f"booting, or run no system (the status is {vm.status}). Give it more with timeout, set force_after to "
            "turn it off after so many seconds, or ask for state=off"
        )


class Ended(Wait):
    """The end of ``quit``: QEMU closes its monitor, and then nothing is left of it."""

    poll_every = _POLL
    loses_connection = True

    def __init__(self, process: Process | None = None) -> None:
        """``process``: QEMU's own; None: that of whoever listened at the monitor first, which can live on."""
        self._certain = process is not None and process.pid is not None
        self.process = process or Process(None)
        self._since = 0.0

    def begin(self, vm: VM) -> None:
        """Find the process while it is there."""
        if not self._certain:
            self.process = Process(vm.session.process)

    def is_done(self, vm: VM) -> bool:
        """Tell whether the process is gone; where it is not known, or not QEMU's, whether nobody listens any more."""
        if not vm.session.closed:
            return False
        known = self.process.pid is not None
        if known and not self.process.alive:
            return True
        self._since = self._since or time.monotonic()
        late = time.monotonic() - self._since > _GRACE_SECONDS
        if self._certain or (known and not late):
            return False
        if _nobody_listens(vm):
            return True
        # behind a tunnel somebody always listens
        return late and not vm.local and any(event.name == "SHUTDOWN" for event in vm.session.events)

    def timeout_error(self, vm: VM) -> Exception:
        """Return what is still there."""
        who = "its monitor" if self.process.pid is None else f"its process {self.process.pid}"
        return NotDoneInTime(f"QEMU was to end, and {who} is still there")


def stop_steps(name: str, status: str, process: Process, seconds: float, warn: Callable[[str], None]) -> List[Step]:
    """Return the steps that end QEMU. Raise Refusal for a guest whose power would be cut without anybody having said so.

    ``process``: QEMU's, as far as it is known. ``seconds``: how long the guest has to shut down, 0 to end QEMU as it is.
    ``warn``: called with a sentence where the guest did not.
    """
    ended = Ended(process)
    if not seconds or status in _NO_GUEST:
        return [Step("quit", wait=ended)]
    _check_can_shut_down(name, status)

    def is_answered(vm: VM) -> bool:
        """Return true, and warn of a guest that ignored the button. Raise Refusal for one that has stopped meanwhile."""
        try:
            now = vm.status
        except errors.Disconnected:
            return True
        if now not in _NO_GUEST:
            _check_can_shut_down(name, now)  # stopped by an I/O error, say
            warn(f"{name}: the guest did not shut down within {seconds:.4g} s, so QEMU was ended")
        return True

    wake = [Step("system_wakeup")] if status == "suspended" else []
    press = Step("system_powerdown", wait=PoweredDown(seconds, optional=True))
    return [*wake, press, Step("quit", wait=ended, condition=is_answered)]


def _check_can_shut_down(name: str, status: str) -> None:
    if status not in ("running", "suspended"):
        raise Refusal(
            f"{name}: its status is {status}. A guest that does not run can't shut down, and to end QEMU would "
            "be a power failure to it. Let it run first (qemu_power with state=running), or set shutdown_timeout to 0, which "
            "ends it as it is"
        )


def wait_until_ended(vm: VM, process: Process) -> None:
    """Wait until nothing is left of a QEMU that closes its monitor. Raise NotDoneInTime at the deadline.

    ``process``: who listened at the monitor, looked at while QEMU was there.
    """
    ended = Ended()
    ended.process = process
    while not ended.is_done(vm):
        if vm.deadline.expired:
            raise ended.timeout_error(vm)
        time.sleep(_POLL)


def _nobody_listens(vm: VM) -> bool:
    """Tell whether nobody listens at the monitor's address any more."""
    try:
        vm.reopen(0.5).close()
    except errors.ConnectError as exc:
        return exc.nobody
    return False
