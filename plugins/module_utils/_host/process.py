# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's process on this host: who it is, how it is started, and what it leaves behind. Linux only (``/proc``)."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import time
from typing import IO, TYPE_CHECKING, Callable, Dict, Iterator, List, Sequence

from .._core import safe_open
from .._core.errors import Refusal
from . import child
from .command_line import guest_name

if TYPE_CHECKING:
    from .._qmp.address import Address
    from .._qmp.deadline import Deadline

POLL = 0.02
_ZOMBIE_SECONDS = 2.0
# In QEMU's environment: QEMU detaches itself from whoever starts it, and by this its process can still be told.
_MARK = "VMM_QEMU_START"
_STDERR_BYTES = 4000
# What a program needs to find its way, and QEMU to find its modules and, if it is to have one, a display.
_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "QEMU_MODULE_DIR"),
    *("XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"),
)


def command_line(pid: int) -> List[str]:
    """Return the command line of a process; empty if there is none, or it has ended and nobody has noticed."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(text) for text in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def runs(pid: int | None, name: str) -> bool:
    """Tell whether the process is there and is the QEMU of the VM ``name``: a pid alone may be anybody's by now."""
    return pid is not None and guest_name(command_line(pid)) == name


def other_binary(pid: int, binary: str) -> str | None:
    """Return the program that the process runs if it is another one than ``binary``; None if it is that, or can't be told."""
    try:
        with open(binary, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return None  # a script runs another program in the end
        running = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    # after an upgrade the kernel says so in this way; whether to restart for that is the user's business
    running = running[: -len(" (deleted)")] if running.endswith(" (deleted)") else running
    return running if running != os.path.realpath(binary) else None


def read_pidfile(path: str) -> int | None:
    """Return the process id in a file; None if there is no file. Raise Refusal if it holds anything else."""
    try:
        with safe_open.regular(path) as file:
            text = file.read(64).strip()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Refusal(f"pidfile: {path} can't be read: {exc.strerror}") from exc
    if text and not (text.isdigit() and len(text) < 12):
        raise Refusal(f"pidfile: {path} is there and holds no process id; QEMU would overwrite it")
    return int(text) if text else None


def is_free(address: Address) -> bool:
    """Tell whether nothing listens there: no socket, or one that a dead process left. A doubt counts as a no."""
    family = socket.AF_INET if address.path is None else socket.AF_UNIX
    try:
        if family == socket.AF_INET:
            socket.create_connection((address.host, address.port), timeout=1.0).close()
        else:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                probe.connect(address.sun_path)
    except OSError as exc:
        return exc.errno in (errno.ENOENT, errno.ECONNREFUSED) and not address.is_file(follow=False)
    return False


def _has_path(address: Address) -> bool:
    return address.path is not None and not address.path.startswith("@")


def wait_until_socket_closed(address: Address) -> None:
    """Wait a moment for a process that is ending: it closes its sockets after it has ceased to look like one."""
    end = time.monotonic() + _ZOMBIE_SECONDS
    while not is_free(address) and time.monotonic() < end:
        time.sleep(POLL)


def remove_stale_files(addresses: Sequence[Address], pidfile: str, name: str) -> None:
    """Delete the sockets that nobody listens at, and the pidfile whose process is gone. Raise Refusal."""
    for address in addresses:
        with contextlib.suppress(FileNotFoundError):
            try:
                if _has_path(address) and is_free(address):
                    os.unlink(address.path or "")
            except PermissionError as exc:
                raise Refusal(f"{address}: a dead process left it, and it can't be deleted: {exc.strerror}") from exc
    pid = read_pidfile(pidfile)
    in_use = pid is not None and (runs(pid, name) or pidfile in command_line(pid))
    with contextlib.suppress(OSError):  # QEMU can overwrite it, and says so if it can't
        if not in_use:
            os.unlink(pidfile)


def new_mark() -> str:
    """Return a text that tells the processes of one start from all others."""
    return f"{os.getpid()}.{os.urandom(8).hex()}"


def environment() -> Dict[str, str]:
    """Return what QEMU gets of the task's environment: it lasts as long as QEMU does, and a password has no place in it."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def launch(argv: Sequence[str], mark: str, deadline: Deadline, logged: Callable[[], str]) -> str:
    """Start QEMU, which returns as soon as the VM runs on its own (``-daemonize``). Its stderr, mostly empty.

    ``logged()``: what it wrote to its log by then. Raise Refusal with QEMU's own words if it fails, or isn't through by
    the deadline. Whatever is raised, the caller ends what was started with ``kill(mark)``.
    """
    import tempfile

    # A file and no pipe: the end of a pipe would come only when every process that inherited it has ended.
    with tempfile.TemporaryFile() as heard:
        try:
            # In "/", where a daemon ends up: a relative path would otherwise work now and not later.
            # And there is no AnsibleModule in the task's own process: pylint: disable-next=ansible-bad-function
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=heard,
                stderr=heard,
                cwd="/",
                env={**environment(), _MARK: mark},
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            raise Refusal(f"{argv[0]} can't be run: {exc}") from exc
        try:
            with child.killed_by(deadline, process):
                status = process.wait(deadline.remaining())
        except BaseException as exc:
            process.kill()
            process.wait()
            if isinstance(exc, subprocess.TimeoutExpired):
                text = f"QEMU was not ready within {deadline.seconds:.4g} s, and was ended"
                raise Refusal(_sentence(text, tail(heard), logged())) from None
            raise
        if status:
            how = f"with status {status}" if status > 0 else f"by signal {-status}"
            raise Refusal(_sentence(f"QEMU did not start, it ended {how}", tail(heard), logged()))
        return tail(heard)


def _sentence(text: str, *details: str) -> str:
    said = "; ".join(filter(None, details))
    return f"{text}: {said}" if said else f"{text}, and said nothing"


def tail(file: IO[bytes]) -> str:
    """Return the end of what QEMU said."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _STDERR_BYTES))
    return file.read().decode(errors="replace").strip()


def kill(mark: str) -> None:
    """Kill the processes that carry the mark."""
    end = time.monotonic() + 1.0
    left = list(_marked(mark))
    while left and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)
        left = list(_marked(mark))


def _marked(mark: str) -> Iterator[int]:
    """Yield the processes that have the mark in their environment."""
    wanted = os.fsencode(f"{_MARK}={mark}")
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{int(entry)}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                yield int(entry)
