# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a host is sent with each task, as text on stdin: it finds the collection's code that is kept there, and runs the task.

After this text there come: a line ``MARK PACK IDLE MODULE LENGTH REMOTE_TMP``; the text of ``_runner_pack.py``, which has that
``LENGTH``; the task, a line of JSON; and the bundle of which a pack is made, where the controller was told that there is none.

Where a process waits that an earlier task has left, that one runs the task: see ``_runner_ask.py``. Else this process does, and
leaves one that waits ``IDLE`` seconds for further tasks, or none if that is 0: see ``_runner_process.py``.

A pack is used only where it and its directory are this user's and nobody else has any rights there.
"""
# Private to the collection: may change without notice. Python 3.6 can read it, so that an old one can say what it is.
# Each task pays for what is imported here: Python starts without os.

import binascii
import gc
import marshal
import posix
import sys
from _stat import S_ISDIR, S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn, Tuple

_LONGEST = 1 << 20
"""Bytes of a part of a pack: a broken length could name more than there is memory."""
_PLACE = "ansible_collections.vmm.qemu.plugins.module_utils."


class Odd(Exception):
    """Why the task can't be run this way, though perhaps as a module. Nothing of it was begun."""


class Absent(Exception):
    """There is no such pack."""


def directory(remote_tmp: str) -> str:
    """Return where packs are kept: in this user's own home, which HOME need not be after a change of user."""
    path, below_home = remote_tmp, remote_tmp.startswith("~/")
    home = posix.environ.get(b"HOME", b"").decode(sys.getfilesystemencoding(), "surrogateescape").rstrip("/")
    if "$" in path or (path.startswith("~") and not (below_home and home)):
        import os

        home, path = os.path.expanduser("~"), os.path.expanduser(os.path.expandvars(path))
    elif below_home:
        path = home + path[1:]
    if below_home and posix.stat(home).st_uid != posix.geteuid():
        import pwd

        path = pwd.getpwuid(posix.geteuid()).pw_dir + remote_tmp[1:]
    if not path:
        raise Odd("remote_tmp is empty")
    return f"{path.rstrip('/')}/vmm.qemu-{posix.geteuid()}"


def open_own(path: str, flags: int, is_type: "Callable[[int], bool]", dir_fd: "Any" = None) -> int:
    """Return a descriptor of a file or directory. Raise Odd where it is not this user's alone, and OSError."""
    descriptor = posix.open(path, flags | posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK, dir_fd=dir_fd)
    found = posix.fstat(descriptor)
    if not is_type(found.st_mode) or found.st_uid != posix.geteuid() or found.st_mode & 0o077:
        posix.close(descriptor)
        raise Odd(f"{path} is somebody else's, or others have rights there")
    return descriptor


def opened(path: str, name: str, code: bytes, bundle: bytes) -> "Tuple[int, int]":
    """Return the descriptors of the packs' directory and of a pack, made of a bundle if there is one. Raise Absent and OSError."""
    if bundle:
        packs = {}  # type: Any
        exec(code, packs)
        packs["make"](path, name, bundle, lambda: open_own(path, posix.O_DIRECTORY, S_ISDIR))
    try:
        folder = open_own(path, posix.O_DIRECTORY, S_ISDIR)
        return folder, open_own(name, 0, S_ISREG, folder)
    except FileNotFoundError:
        raise Absent from None


def part(descriptor: int) -> "Any":
    """Return the next part of a pack, which its checksum and its length come before, or None where it is broken."""
    head = posix.read(descriptor, 8)
    data = posix.read(descriptor, min(int.from_bytes(head[4:], "big"), _LONGEST))
    return data if head == binascii.crc32(data).to_bytes(4, "big") + len(data).to_bytes(4, "big") else None


def say(mark: str, word: str, value: "Any" = None) -> "NoReturn":
    """Say why nothing is begun, and end."""
    import json

    sys.stdout.write(f"\n{mark} {word} {json.dumps(value)}\n")
    sys.stdout.flush()
    posix._exit(0)


def main() -> "NoReturn":
    """Say one of: absent, old or odd (and why), begun and then the result. The controller knows them by the mark."""
    stdin = sys.stdin.buffer
    mark, pack_name, idle, module, length, remote_tmp = stdin.readline().decode()[:-1].split(" ", 5)
    code, task, bundle = stdin.read(int(length)), stdin.readline(), stdin.read()
    if not task.endswith(b"\n"):
        raise EOFError("the request was cut off")
    if sys.hexversion < 0x3080000:
        version = sys.version.split()[0]
        needed = f"vmm.qemu needs Python 3.8 or later on the managed host, and {sys.executable} there is {version}"
        say(mark, "old", needed)
    gc.disable()  # nothing that is imported is garbage
    name = f"{pack_name}.{sys.implementation.cache_tag}-{sys.hexversion:x}"
    asks, packs, pack, waiting = {}, {}, None, ""  # type: Any, Any, Any, str
    try:
        folder, descriptor = opened(directory(remote_tmp), name, code, bundle)
        code_of_ask = part(descriptor)
        if code_of_ask:
            exec(marshal.loads(code_of_ask), asks)
            if idle != "0":
                waiting = asks["ask"](folder, name, module, mark, task, bool(bundle))
            exec(code, packs)
            pack = packs["load"](descriptor, part(descriptor))
        if pack is not None:
            sys.meta_path.insert(0, pack)
            process = __import__(_PLACE + "_runner_process", fromlist=["run"])
            process.imported(module)
    except (EOFError, Absent):
        pack = None  # a part that is broken is made anew, too
    except Exception as exc:
        say(mark, "odd", f"{type(exc).__name__}: {exc}")
    if pack is None:
        say(mark, "absent")
    if waiting:
        process.wait(waiting, asks["context"], int(idle), pack.descriptor)
    posix._exit(process.run(mark, task))


if __name__ == "__main__":
    main()
