# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report's page: what it shows, and that nothing which a machine says can be more than text in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vmm.qemu.plugins.plugin_utils import _report_backups as backups
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_buses import buses
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_drift import drift
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_fleet import rows
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_page import page
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_vm import shown
from support import report

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ lookup('pipe', 'id') }}{% raw %}",
    "a\x00\x1b[2J\u2028\u202e\ud800b",
    "&lt;b&gt;\\u003c",
    "x" * 100_000,
)


class Elements(HTMLParser):
    """What a browser takes for elements, and the text in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if self.names and self.names[-1] in ("script", "style") and data.strip():
            self.texts.append(data)


def made(machines: dict[str, dict[str, Any]], title: str = "Fleet", **registered: Any) -> str:
    """The page of these machines, by what `qemu_info` has told of each."""
    hosts: dict[str, dict[str, Any]] = {
        name: {"qemu_hypervisor": "hv1", "qemu_socket": f"/run/{name}/qmp", "qemu_status": "running"}
        for name in machines
    }
    first = next(iter(hosts))
    hosts[first].update(__report_names=list(hosts), __report_told={"machines": machines}, **registered)
    return page(rows([first], hosts, report.NOW), title, report.NOW, **report.own_files())


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_machine_says_is_text_alone(text: str) -> None:
    vm = json.loads(json.dumps(report.machine(1)).replace("disk0", "DISK").replace("tap-db1", "TAP"))
    vm = replaced(vm, {"DISK", "TAP", "db1", "virtio-net-pci", "running", "10.0.2"}, text)
    out = made({"db1": {"vm": vm}, "gone": {"failed": True, "msg": text}}, title=text)
    elements, plain = Elements(out), Elements(made({"db1": {"vm": report.machine(1)}}))
    assert elements.names == plain.names and len(elements.texts) == 3
    shown_machine = report.data_of(out)["machines"][0]
    assert shown_machine["own_name"][:1] == text[:1] and len(shown_machine["own_name"]) <= 400
    assert all(character.isprintable() for character in shown_machine["own_name"])


def replaced(value: Any, words: set[str], text: str) -> Any:
    """A value with a hostile text in the place of these words, keys too."""
    if isinstance(value, dict):
        return {replaced(key, words, text): replaced(item, words, text) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, words, text) for item in value]
    return text if value in words else value


def test_a_browser_runs_the_page_s_own_script_alone() -> None:
    elements = Elements(made({"web1": {"vm": report.machine(0)}}))
    policy = next(one["content"] for one in elements.attributes if "http-equiv" in one)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy).split("; "))
    style, _data, script = elements.texts
    for name, content in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    # nothing that would have to be fetched, and nothing that makes HTML of a text
    assert not re.search(
        r"\b(?:src|href)=|url\(|@import|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script + style
    )


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_a_machine_says_there_is_a_page(data: st.DataObject) -> None:
    """One value, wherever it is, is of another sort than QEMU's."""
    vm = report.machine(1)
    where: Any = vm
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        inside = where[key]
        if not isinstance(inside, (dict, list)) or not inside or data.draw(st.booleans()):
            where[key] = data.draw(ANYTHING)
            break
        where = inside
    machines = report.data_of(made({"db1": {"vm": vm}}))["machines"]
    assert [one["name"] for one in machines] == ["db1"]
    for key, sort in (
        ("disks", list),
        ("nics", list),
        ("jobs", list),
        ("memory", int),
        ("state", str),
        ("version", str),
    ):
        assert isinstance(machines[0][key], sort)


def test_a_page_of_a_fleet() -> None:
    askers, hosts = report.fleet(200)
    out = page(rows(askers, hosts, report.NOW), "Fleet", report.NOW, **report.own_files())
    machines = {one["name"]: one for one in report.data_of(out)["machines"]}
    assert len(machines) == 200 and len(out) < 2_000_000
    assert {one["state"] for one in machines.values()} == {"running", "paused", "io-error", "busy", "unreachable"}
    db1 = machines["db1"]
    assert (db1["hypervisor"], db1["cpus"], db1["most_cpus"]) == ("hv2.example.com", 2, 4)
    assert db1["memory"] == 5 * report.GIB and db1["plugged"] == report.GIB and db1["outdated"] is False
    first, second = db1["disks"]
    assert first["files"] == [f"/var/lib/vmm-qemu/db1/disk0{end}.qcow2" for end in ("@monday", "")]
    assert second["limits"] == {"bps": 200 * report.MIB, "iops": 2000} and second["driver"] == "virtio-blk-pci"
    nic = db1["nics"][0]
    assert (nic["mac"], nic["type"], nic["settings"]) == ("52:54:00:00:01:00", "tap", "ifname=tap-db1")
    assert machines["cache3"]["jobs"] == [
        {"id": "copy0", "type": "mirror", "status": "running", "done": 37, "speed": 20 * report.MIB, "error": ""}
    ]
    assert machines["web9"]["migration"] == {"status": "active", "done": 62, "error": "", "going": True}


def test_what_does_not_answer_is_there_too() -> None:
    hosts: dict[str, dict[str, Any]] = {
        name: {"qemu_hypervisor": "hv1", "qemu_socket": f"/run/{name}.qmp", "qemu_status": "running"}
        for name in ("a", "b")
    }
    lost = {"unreachable": True, "changed": False, "msg": "no route to host"}
    hosts["a"].update(__report_names=["a", "b"], __report_told=lost)
    found = rows(["a"], hosts, report.NOW)
    assert [(one["name"], one["state"], one["reason"]) for one in found] == [
        (name, "unreachable", "no route to host") for name in ("a", "b")
    ]
    assert report.data_of(page([], "Fleet", report.NOW, "", ""))["machines"] == []


def test_what_is_many_is_counted_to_the_end() -> None:
    vm = {**report.machine(1), "cpus": [{"cpu-index": 0}] * 700, "hotpluggable_cpus": [{"vcpus_count": 1}] * 800}
    machines = report.data_of(made({f"vm{number}": {"vm": vm} for number in range(600)}))["machines"]
    assert {(one["state"], one["cpus"], one["most_cpus"]) for one in machines} == {("running", 700, 800)}
    times = [f"2026-11-{day:02d}T{hour:02d}:00:00Z" for day in range(1, 29) for hour in range(24)]
    many = json.dumps({"backups": [{"time": time, "level": "inc"} for time in times]})
    found = backups.newest(backups.listed(f"/b/web1\0{packed(many)}\0"), {"web1"}, "", DAY, report.NOW)
    assert found["time"] == times[-1]


def test_buses() -> None:
    devices = {
        "rp0": {"driver": "pcie-root-port", "bus": "pcie.0", "addr": "02.0"},
        "rp1": {"driver": "pcie-root-port", "bus": "pcie.0", "addr": "03.0"},
        "scsi0": {"driver": "virtio-scsi-pci", "bus": "rp0", "addr": "00.0"},
        "cd": {"driver": "scsi-cd", "bus": "scsi0.0"},
        "dimm0": {"driver": "pc-dimm", "bus": ""},
    }
    pci = [{"devices": [{"slot": 31, "function": 2, "qdev_id": "", "class_info": {"desc": "SATA controller"}}]}]
    root, board = buses({"devices": devices, "pci": pci})
    assert root["name"] == "pcie.0" and board["name"] == ""
    assert [(one["id"], one["driver"], one["addr"]) for one in root["devices"]] == [
        ("rp0", "pcie-root-port", "02.0"),
        ("", "SATA controller", "1f.2"),
        ("", "", ""),
    ]
    assert root["devices"][2]["free"] == ["rp1"] and board["devices"][0]["id"] == "dimm0"
    (port,) = root["devices"][0]["buses"]
    (scsi,) = port["devices"][0]["buses"]
    assert (port["name"], scsi["name"], scsi["devices"][0]["id"]) == ("rp0", "scsi0.0", "cd")


def test_a_tree_that_is_none_ends() -> None:
    """Each of two is on the bus of the other: neither can be drawn, and nobody waits."""
    assert buses({"devices": {"a": {"driver": "x", "bus": "b"}, "b": {"driver": "y", "bus": "a"}}}) == []


DAY = timedelta(days=1)


def chain(name: str, time: str, uuid: str = "", **more: Any) -> str:
    return packed(
        json.dumps({"vm": {"name": name, "uuid": uuid}, "backups": [{"time": time, "level": "full"}], **more})
    )


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("output", "time", "old"),
    [
        ("", "", True),
        ("/b/web1\0" + chain("x", "2026-11-29T05:00:00Z") + "\0", "2026-11-29T05:00:00Z", False),
        ("/b/web1\0" + chain("x", "2026-11-28T05:00:00Z") + "\0", "2026-11-28T05:00:00Z", True),
        ("/b/web1\0" + chain("x", "2026-11-29T07:00:00Z") + "\0", "2026-11-29T07:00:00Z", True),  # the clock was wrong
        ("/b/web2\0" + chain("web1", "2026-11-29T05:00:00Z") + "\0", "", True),
        ("/b/web2\0" + chain("x", "2026-11-29T05:00:00Z", "5f0c-1") + "\0", "2026-11-29T05:00:00Z", False),
        (
            f"/b/web1\0{packed('not JSON')}\0/b/web1\0{packed('[]')}\0/b/web1\0"
            + chain("x", "yesterday")
            + "\0/b/web1",
            "",
            True,
        ),
        ("/b/web1\0not base64\0", "", True),
        # what pretends to be another's list
        ("/b/web2\0" + packed("{}\0/b/web1\0" + chain("x", "2026-11-29T05:00:00Z") + "\0") + "\0", "", True),
    ],
    ids=["none", "young", "old", "to come", "of another", "by its UUID", "damaged", "not base64", "two in one"],
)
def test_the_newest_backup(output: str, time: str, old: bool) -> None:
    found = backups.newest(backups.listed(output), {"web1"}, "5f0c-1", DAY, report.NOW)
    assert (found["time"], found["old"]) == (time, old)


def test_the_lists_of_a_hypervisor_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(backups, "_parsed", lambda said: read.append(said) or {})
    listed = {"rc": 0, "stdout": "/b/vm0\0{}\0/b/vm1\0{}\0"}
    made({f"vm{number}": {"vm": report.machine(number)} for number in range(5)}, __report_listed=listed)
    assert len(read) == 2


def test_backups_that_can_t_be_read_are_not_none() -> None:
    failed = {"rc": 1, "stdout": "", "stderr": "find: /backup: Permission denied"}
    (one,) = report.data_of(made({"web1": {"vm": report.machine(0)}}, __report_listed=failed))["machines"]
    assert one["backup"] == {"reason": "find: /backup: Permission denied"}
    (one,) = report.data_of(made({"web1": {"vm": report.machine(0)}}, __report_listed={"skipped": True}))["machines"]
    assert one["backup"] is None


def test_a_period() -> None:
    assert backups.period("23h") == timedelta(hours=23)
    with pytest.raises(AnsibleFilterError, match="backup_every: 'daily' is not a valid time"):
        backups.period("daily")


def test_nothing_is_shown_that_was_not_told() -> None:
    empty = shown({})
    assert empty["balloon"] is None and empty["migration"] is None and not empty["outdated"] and empty["buses"] == []


def told_of(**document: Any) -> dict[str, Any]:
    """What `qemu_info` tells of a machine's document."""
    usual = {"differences": [], "restart_required": False, "arguments": {"before": [], "after": []}, "reason": ""}
    return {**usual, **document}


LIMIT = {"action": "change", "kind": "disk", "id": "data", "changes": {"limits.iops": {"before": 0, "after": 500}}}
GONE = {"action": "add", "kind": "chardev", "id": "c0", "changes": {}}
TOO_MUCH = {"action": "remove", "kind": "nic", "id": "net0", "changes": {}}
MORE_MEMORY = {"before": ["-m size=1G", "-S"], "after": ["-vnc none", "-m size=2G"]}


@pytest.mark.parametrize(
    ("document", "says", "count"),
    [
        ({}, ["not kept by qemu_vm"], None),
        (told_of(), ["nothing differs"], 0),
        (told_of(differences=[LIMIT]), ["1 difference"], 1),
        (told_of(differences=[LIMIT, GONE, TOO_MUCH]), ["3 differences"], 3),
        (told_of(restart_required=True, arguments=MORE_MEMORY), ["needs a restart"], 0),
        (
            told_of(differences=[GONE], restart_required=True, reason="x"),
            ["1 difference", "needs a restart", "could not be told"],
            1,
        ),
        (told_of(restart_required=None, reason="it is a symbolic link"), ["could not be told"], None),
    ],
)
def test_what_differs_from_a_document(document: dict[str, Any], says: list[str], count: int | None) -> None:
    found = drift(document)
    assert found is not None and (found["says"], found["count"]) == (says, count)
    assert found["restart"] == bool(document.get("restart_required"))


def test_each_difference_is_a_line() -> None:
    found = drift(told_of(differences=[LIMIT, GONE, TOO_MUCH], restart_required=True, arguments=MORE_MEMORY))
    assert found is not None
    assert [tuple(line.values()) for line in found["lines"]] == [
        ("command line", "", "-vnc none", ""),
        ("command line", "", "-m size=2G", "-m size=1G"),
        ("command line", "", "", "-S"),
        ("disk data", "limits.iops", "500", "0"),
        ("chardev c0", "", "there", "not there"),
        ("nic net0", "", "not there", "there"),
    ]
    many = drift(told_of(differences=[GONE] * 700))
    assert many is not None and many["says"] == ["700 differences"] and len(many["lines"]) == 500
    assert drift(None) is None and drift([]) is None


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_record_says_is_text_alone(text: str) -> None:
    changes = {text: {"before": {text: [text]}, "after": text}}
    differences = [{"action": text, "kind": text, "id": text, "changes": changes}]
    document = {
        "differences": differences,
        "restart_required": True,
        "arguments": {"before": [text], "after": [text]},
        "reason": text,
    }
    out = made({"db1": {"vm": {**report.machine(1), "document": document}}})
    assert Elements(out).names == Elements(made({"db1": {"vm": report.machine(1)}})).names
    (one,) = report.data_of(out)["machines"]
    assert one["drift"]["says"] == ["1 difference", "needs a restart", "could not be told"]
    for line in one["drift"]["lines"]:
        assert all(part.isprintable() and len(part) <= 801 for part in line.values())
