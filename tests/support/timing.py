# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait for something, or see that nothing hangs, on machines that may be busy. How fast it is, `bench/` tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OVER = 2.0  # seconds that a module may take beyond its timeout
BUSY = 10.0  # what other work of the machine may add


@contextmanager
def no_hang(timeout: float) -> Iterator[None]:
    """What is done in here has to end soon after its `timeout` in seconds, whoever leaves it waiting."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < timeout + OVER + BUSY, f"{took:.1f} s, where {timeout} s are the limit"


def until(what: Callable[[], bool], timeout: float = 120) -> None:
    """Wait until `what()` is true, for at most `timeout` seconds."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, f"not true within {timeout} s"
        time.sleep(0.01)
