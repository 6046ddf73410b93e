# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A process of this host, told from a later one that has its number."""
# Private to the collection: may change without notice.

from __future__ import annotations


class Process:
    """A process by its id and its start time."""

    def __init__(self, pid: int | None) -> None:
        """``pid``: None where it is not known. The number of a process that can't be looked at is worth nothing."""
        self.pid = pid
        self._start_time = self._stat()[1]
        if not self._start_time:
            self.pid = None

    @property
    def identity(self) -> str:
        """What tells it from any other, also after a reboot; empty where it is not known."""
        if not self.pid:
            return ""
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
            return f"{boot.read().strip()} {self.pid} {self._start_time}"

    @classmethod
    def is_alive(cls, identity: str) -> bool:
        """Tell whether the process of an identity is there."""
        pid = identity.split(" ")[1] if identity.count(" ") == 2 else ""
        process = cls(int(pid)) if pid.isdigit() else None
        return process is not None and process.identity == identity and process.alive

    @property
    def alive(self) -> bool:
        """Whether it is there and not just waiting to be noticed by its parent (a container's init may never look).

        Its first thread may be dead while others still use its files.
        """
        state, start_time, threads = self._stat()
        return start_time != "" and start_time == self._start_time and (state not in "ZX" or threads > 1)

    def _stat(self) -> tuple[str, str, int]:
        """State letter, start time (clock ticks since boot), number of threads; empty when there is no such process."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="utf-8", errors="replace") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return "", "", 0
        return fields[0], fields[19], int(fields[17])
