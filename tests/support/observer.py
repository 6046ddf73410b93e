# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second pair of eyes: a small blocking QMP client that shares no code with the one under test."""

from __future__ import annotations

import json
import socket
import time
from typing import Any


class ObserverError(Exception):
    """QEMU refused what the test itself asked for."""

    def __init__(self, command: str, error: dict[str, str]) -> None:
        super().__init__(f"{command}: {error.get('class')}: {error.get('desc')}")
        self.error_class = error.get("class", "")
        self.desc = error.get("desc", "")


class Observer:
    """One QMP connection, one command at a time. Events seen on the way are kept in `events`, oldest first."""

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        self.timeout = timeout
        self.events: list[dict[str, Any]] = []
        self._unread = b""
        self._id = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(path)
        self.greeting = self._message(time.monotonic() + timeout)["QMP"]
        self.execute("qmp_capabilities")

    # -- the wire -----------------------------------------------------------

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("nothing came on the observer's monitor")
            self._socket.settimeout(left)
            received = self._socket.recv(1 << 16)
            if not received:
                raise EOFError("QEMU closed the observer's monitor")
            self._unread += received
        line, self._unread = self._unread.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str, **arguments: Any) -> Any:
        """Send one command (`node_name=` for `node-name`) and give back its `return`."""
        self._id += 1
        request: dict[str, Any] = {"execute": command, "id": self._id}
        if arguments:
            request["arguments"] = {name.rstrip("_").replace("_", "-"): value for name, value in arguments.items()}
        return self._transact(request)

    def send(self, command: str, arguments: dict[str, Any]) -> Any:
        """The same with the arguments as they are on the wire."""
        self._id += 1
        return self._transact({"execute": command, "arguments": arguments, "id": self._id})

    def _transact(self, request: dict[str, Any]) -> Any:
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + self.timeout
        while True:
            message = self._message(deadline)
            if "event" in message:
                self.events.append(message)
            elif message.get("id") == request["id"]:
                if "error" in message:
                    raise ObserverError(request["execute"], message["error"])
                return message["return"]

    def wait_event(self, name: str, timeout: float = 60.0, **data: Any) -> dict[str, Any]:
        """Take the first event of that name and data out of `events`, waiting for it if it hasn't come yet."""
        deadline, seen = time.monotonic() + timeout, 0
        wanted = {key.replace("_", "-"): value for key, value in data.items()}.items()
        while True:
            for index, event in enumerate(self.events[seen:], start=seen):
                if event["event"] == name and wanted <= event.get("data", {}).items():
                    return self.events.pop(index)
            seen = len(self.events)
            try:
                message = self._message(deadline)
            except TimeoutError:
                names = [event["event"] for event in self.events]
                raise TimeoutError(f"no {name} {data or ''} within {timeout} s; seen: {names}") from None
            if "event" in message:
                self.events.append(message)

    def forget_events(self) -> None:
        """What came until now shall not be taken for what comes next."""
        self.execute("query-status")  # its reply is behind every event sent before it
        self.events.clear()

    def close(self) -> None:
        self._socket.close()

    # -- looking ------------------------------------------------------------

    def look(self, query: str, **arguments: Any) -> Any:
        return self.execute(query, **arguments)

    def qom_get(self, path: str, name: str) -> Any:
        return self.execute("qom-get", path=path, property=name)

    def qom_list(self, path: str) -> dict[str, str]:
        return {item["name"]: item["type"] for item in self.execute("qom-list", path=path)}

    def children(self, path: str) -> dict[str, str]:
        """The children of a QOM container: {id: type}."""
        listed = self.qom_list(path).items()
        return {name: kind[len("child<") : -1] for name, kind in listed if kind.startswith("child<")}

    def devices(self) -> dict[str, str]:
        """Every device that has an id: {id: driver}."""
        return self.children("/machine/peripheral")

    def objects(self) -> dict[str, str]:
        return self.children("/objects")

    def nodes(self) -> set[str]:
        return {node["node-name"] for node in self.execute("query-named-block-nodes", flat=True)}

    def node(self, name: str) -> dict[str, Any]:
        """One block node; KeyError when there is none of that name (`nodes()` tells without).

        Without the names that QEMU gives to children by a counter.
        """
        listed: list[dict[str, Any]] = self.execute("query-named-block-nodes", flat=True)
        found = {node["node-name"]: node for node in listed}[name]
        for child in found.get("children", []):
            child.update({"node-name": ""} if child["node-name"].startswith("#") else {})
        return found

    def chardevs(self) -> dict[str, str]:
        return {chardev["label"]: chardev["filename"] for chardev in self.execute("query-chardev")}

    def hmp(self, line: str) -> str:
        answer: str = self.execute("human-monitor-command", command_line=line)
        return answer

    def status(self) -> str:
        status: str = self.execute("query-status")["status"]
        return status
