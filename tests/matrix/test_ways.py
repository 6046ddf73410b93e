# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""With one ansible-core, the one that runs this: plays over each way, by each Python on the managed host.

`scripts/test matrix` runs it by every core. What was seen is a line of .bed/matrix/CORE.jsonl, of which support/matrix.py makes the
table in the documentation.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible.release import __version__ as CORE

from support.collection import REPO
from support.matrix import PYTHONS, record
from support.plays import PlayRun, another_python, run_playbook
from support.sshd import Sshd
from support.vm import VM

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
BIN = REPO / ".bed" / "pythons" / "bin"
VERSION = tuple(map(int, CORE.split(".")[:2]))
# what Debian never had, or has no more: they are pyenv's, where there is one
PERHAPS = ("3.7", "3.8")
CASES = [("process", OWN), *((way, python) for way in ("module", "runner") for python in PYTHONS)]
SECRET = "hunter22"


def refusal(way: str, python: str) -> str:
    """What a core, or the collection, says to a Python that it does not take, as a pattern; "" where it takes it."""
    number = tuple(map(int, python.split(".")))
    if number < (3, 8):
        if way == "runner" or VERSION == (2, 17):
            return r"^vmm\.qemu needs Python 3\.8 or later on the managed host, and \S+ there is 3\.7\.\d+$"
        return "requires a minimum of Python version 3.8" if VERSION == (2, 18) else "No start of json char found"
    if number < (3, 9) and VERSION >= (2, 20):
        return r"^Ansible requires Python 3\.9 or newer on the target\. Current version: 3\.8\."
    if number > (3, 14) and (2, 19) <= VERSION <= (2, 21):
        return "No start of json char found"  # its AnsiballZ wants dataclasses._is_type
    return ""


@dataclass
class Way:
    """What the plays of one way did: their runs, and for each Python what its VM's second monitor showed after each of them."""

    runs: list[PlayRun] = field(default_factory=list)
    seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    clean: dict[str, dict[str, Any]] = field(default_factory=dict)

    def results(self, python: str, play: int) -> dict[str, Any]:
        return {task.task: task for task in self.runs[play].tasks if task.host == f"py{python}"}


def plays() -> list[list[dict[str, Any]]]:
    """In check mode, in earnest and once more, and away."""
    node = {"node_name": "n0", "filename": "{{ image }}"}
    secret = {"id": "s0", "qom_type": "secret", "options": {"data": SECRET}}
    made = [{"name": "node", "vmm.qemu.qemu_blockdev": node}, {"name": "secret", "vmm.qemu.qemu_object": secret}]
    absent = {"blockdevs": [{"node_name": "n0", "state": "absent"}], "objects": [{"id": "s0", "state": "absent"}]}
    gone = {"name": "gone", "vmm.qemu.qemu_machine": absent}
    wrong = {"name": "wrong", "vmm.qemu.qemu_object": {**secret, "no_such": 1}}
    ping = {"name": "ping", "ansible.builtin.ping": {}}
    again = {"name": "again", "vmm.qemu.qemu_blockdev": node}
    tasks = [made, [*made, again, wrong, ping], [{**gone, "name": "foretold", "check_mode": True}, gone]]
    how = {
        "hosts": "py*",
        "gather_facts": False,
        "ignore_errors": True,
        "module_defaults": {"group/vmm.qemu.qemu": {"socket": "{{ monitor }}"}},
    }
    return [[{**how, "tasks": some}] for some in tasks]


def interpreter(way: str, python: str, home: Path) -> str:
    if way == "process":
        return sys.executable
    return str(another_python(home)) if python == OWN else str(BIN / f"python{python}")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Way]]:
    """Gives what happened on a way, whose plays it runs once."""
    with ExitStack() as stack:
        sshd = stack.enter_context(Sshd())

        @functools.lru_cache(maxsize=None)
        def run(way: str) -> Way:
            home = tmp_path_factory.mktemp(way)
            pythons = [python for one, python in CASES if one == way and there(python)]
            vms = {python: stack.enter_context(VM("11.1")) for python in pythons}
            hosts = {
                f"py{python}": {
                    "ansible_python_interpreter": interpreter(way, python, home),
                    "monitor": vm.qmp,
                    "image": vm.image("d0.raw"),
                }
                for python, vm in vms.items()
            }
            inventory = home / "hosts.json"
            inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
            variables = {
                "ansible_python_interpreter": None,
                "vmm_qemu_runner": way == "runner",
                **(sshd.variables if way == "runner" else {}),
            }
            done = Way(seen={python: [] for python in pythons}, clean={p: vm.fingerprint() for p, vm in vms.items()})
            for number, play in enumerate(plays()):
                arguments = ("-vvv", "-i", str(inventory), *(["--check", "--diff"] if number == 0 else []))
                done.runs.append(run_playbook(play, home, *arguments, variables=variables))
                for python, vm in vms.items():
                    done.seen[python].append(vm.fingerprint())
            return done

        yield run


def there(python: str) -> bool:
    found = python == OWN or (BIN / f"python{python}").exists()
    assert found or python in PERHAPS, f"there is no Python {python}: scripts/setup pythons"
    return found


@pytest.mark.parametrize(("way", "python"), CASES)
def test_a_life(ran: Callable[[str], Way], way: str, python: str) -> None:
    if not there(python):
        record(CORE, way, python, "not run here")
        pytest.skip(f"Debian has no Python {python}, and neither has pyenv here")
    done = ran(way)
    verdict = refusal(way, python)
    (refused if verdict else lives)(done, way, python)
    record(CORE, way, python, "refused" if verdict else "ok")


def lives(done: Way, way: str, python: str) -> None:
    clean, (foretold, made, gone) = done.clean[python], done.seen[python]
    before, now, after = (done.results(python, play) for play in range(3))
    assert foretold == clean and made != clean
    assert before["node"].changed and before["node"].result["diff"] and before["secret"].changed
    assert set(made["nodes"]) - set(clean["nodes"]) == {"n0", "#"}  # and its file's, to which QEMU gives a name
    assert set(made["objects"]) - set(clean["objects"]) == {"s0"}
    for task in ("node", "secret"):
        assert now[task].changed and now[task].result["commands"] == before[task].result["commands"]
    assert not now["again"].failed and not now["again"].changed and now["again"].result["commands"] == []
    assert now["wrong"].failed and "Unsupported parameters for (vmm.qemu.qemu_object) module: no_such" in str(
        now["wrong"]
    )
    assert after["foretold"].changed and after["foretold"].result["commands"] == after["gone"].result["commands"]
    assert gone == clean


def refused(done: Way, way: str, python: str) -> None:
    """Nothing was done; and but for what the collection itself says, the core refuses its own modules, too."""
    pattern = refusal(way, python)
    for play, tasks in enumerate((("node", "secret"), ("node", "again", "wrong"), ("foretold", "gone"))):
        for task in tasks:
            found = done.results(python, play)[task]
            if task == "wrong" and way == "runner" and found.failed and "Unsupported" in str(found):
                continue  # the controller sees that
            assert found.failed and re.search(pattern, found.result["msg"]), found
    assert all(seen == done.clean[python] for seen in done.seen[python])
    if "vmm" not in pattern:
        assert done.results(python, 1)["ping"].failed


@pytest.mark.parametrize("way", ["process", "module", "runner"])
def test_it_is_that_way(ran: Callable[[str], Way], way: str) -> None:
    """Modules leave their name in the output; what a host's Python can't run of the code that is kept there is one, too."""
    done = ran(way)
    modules = any("AnsiballZ_qemu" in run.output for run in done.runs)
    refusals = [refusal(way, python) for python in done.clean]
    assert modules == (way == "module" or any(said and "vmm" not in said for said in refusals))


@pytest.mark.parametrize("way", ["process", "module", "runner"])
def test_nothing_is_deprecated_and_no_secret_shown(ran: Callable[[str], Way], way: str) -> None:
    done = ran(way)
    for run in done.runs:
        assert SECRET not in run.output
        assert "DEPRECATION" not in run.output, [line for line in run.output.splitlines() if "DEPRECATION" in line]
    for task in (task for run in done.runs for task in run.tasks):
        assert not task.result.get("deprecations"), task
