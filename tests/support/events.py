# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event source as a rulebook has it: the `main` of its file, on a loop, with a queue that has room for one event.

async def story() -> None:
    async with watching(sockets=["/run/*.events"]) as heard:
        await heard.next("connected", vm="web1")

tell(story())
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from support.collection import collection_root

SECONDS = 10  # a busy machine takes its time
FILE = "ansible_collections/vmm/qemu/extensions/eda/plugins/event_source/qmp_events.py"
PATIENT = {"connect_timeout": 60, "rescan": 0.05}


def source() -> Any:
    """The file's `main`."""
    spec = importlib.util.spec_from_file_location("qmp_events", f"{collection_root()}/{FILE}")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


class Heard:
    """What the rules get."""

    def __init__(self, queue: asyncio.Queue[dict[str, Any]]) -> None:
        self._queue = queue
        self.seen: list[dict[str, Any]] = []

    async def next(self, name: str, /, **members: Any) -> dict[str, Any]:
        """The next event of that name with these members; those before it are in `seen`."""
        while True:
            event = await self._queue.get()
            self.seen.append(event)
            if event["event"] == name and members.items() <= event.items():
                return event

    def names(self, vm: str) -> list[str]:
        """What was heard of a VM."""
        return [event["event"] for event in self.seen if event["vm"] == vm]


@contextlib.asynccontextmanager
async def watching(**args: Any) -> AsyncIterator[Heard]:
    """The source at work. It must not end by itself."""
    main = source()
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(1)
    task = asyncio.create_task(main(queue, {**PATIENT, **args}))
    try:
        yield Heard(queue)
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def tell(story: Coroutine[Any, Any, None]) -> None:
    """Run a test's story."""
    asyncio.run(asyncio.wait_for(story, SECONDS))
