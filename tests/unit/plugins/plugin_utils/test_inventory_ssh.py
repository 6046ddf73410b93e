# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a hypervisor is asked: by its variables, with nobody there to answer a question, and not past the time."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible import constants
from ansible.parsing.dataloader import DataLoader

from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.plugin_utils import _inventory_ssh, _runner_bundle
from ansible_collections.vmm.qemu.plugins.plugin_utils._inventory_hosts import Unreachable

REQUEST = {"sockets": ["/nowhere/*.qmp"], "connect_timeout": 60.0, "guest_agent": False}
# In the place of ssh: it tells its arguments, and runs the command here, as the user it would be.
SSH = """#!/bin/sh
printf '%s\\n' "$@" > {told}
for command; do :; done
exec sh -c "$command"
"""
SUDO = '#!/bin/sh\nwhile [ "$1" != /bin/sh ]; do shift; done\nexec "$@"\n'


@pytest.fixture(autouse=True)
def local_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path))


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def read(tmp_path: Path, ssh: str = SSH, timeout: float | Deadline = 120.0, **variables: Any) -> dict[str, Any]:
    known = {
        "inventory_hostname": "hv1",
        "ansible_host": "10.0.0.1",
        "ansible_ssh_executable": program(tmp_path / "ssh", ssh.format(told=tmp_path / "told")),
        "ansible_ssh_args": "",
        "ansible_python_interpreter": sys.executable,
        "ansible_remote_tmp": str(tmp_path / "{{ inventory_hostname }}"),
        **variables,
    }
    (reader,) = _inventory_ssh.readers([known], DataLoader())
    return reader(REQUEST, timeout if isinstance(timeout, Deadline) else Deadline(timeout))


def test_the_code_is_brought_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sudo = program(tmp_path / "sudo", SUDO)
    assert read(tmp_path)["unmatched"] == ["/nowhere/*.qmp"]
    monkeypatch.setattr(_runner_bundle, "bundle", lambda: pytest.fail("it is there"))
    assert read(tmp_path, ansible_user="admin", ansible_port=77)["machines"] == []
    told = (tmp_path / "told").read_text().splitlines()
    assert {"BatchMode=yes", "Port=77", 'User="admin"', "10.0.0.1"} <= set(told)
    become: dict[str, Any] = {
        "ansible_become": True,
        "ansible_become_exe": sudo,
        "ansible_become_password": "x",
        "ansible_password": "y",
    }
    assert read(tmp_path, **become)["machines"] == []
    told = (tmp_path / "told").read_text().splitlines()
    assert told[-1].startswith(f"{sudo} -H -S -n  -u root") and "y" not in told


@pytest.mark.parametrize(
    ("ssh", "variables", "told"),
    [
        ("#!/bin/sh\necho 'Permission denied (publickey).' >&2; exit 255", {}, "Permission denied"),
        ("#!/bin/sh\necho Welcome; exit 1", {}, "Welcome"),
        ("#!/bin/sh\nexit 3", {}, "status 3"),
        ("not a program", {}, "ssh can't be run"),
        (SSH, {"ansible_python_interpreter": "/nowhere/python3"}, "/nowhere/python3"),
        (SSH, {"ansible_ssh_common_args": "-o 'ProxyJump"}, "No closing quotation"),
        (SSH, {"ansible_connection": "community.docker.docker"}, "its connection is community.docker.docker"),
    ],
)
def test_why_it_does_not_tell(tmp_path: Path, ssh: str, variables: dict[str, Any], told: str) -> None:
    with pytest.raises(Unreachable, match=told):
        read(tmp_path, ssh, **variables)


def test_one_that_hangs_is_given_up(tmp_path: Path) -> None:
    """The process, too: it would go on when Ansible has ended."""
    with pytest.raises(Unreachable, match="has not answered within 2 s"):
        read(tmp_path, "#!/bin/sh\necho $$ > {told}; exec sleep 600", 2.0)
    assert not Path("/proc", (tmp_path / "told").read_text().strip()).exists()


def test_one_that_hangs_is_given_up_when_ansible_is_told_to_end(tmp_path: Path) -> None:
    deadline = Deadline(600.0)

    def cancel() -> None:
        while not (tmp_path / "told").exists():
            time.sleep(0.01)
        deadline.cancel()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(Unreachable):
        read(tmp_path, "#!/bin/sh\necho $$ > {told}; exec sleep 600", deadline)


ONE = {"socket": "/q", "status": "running"}


@pytest.mark.parametrize(
    "answer",
    [
        ["x"],
        {"machines": []},
        {"machines": 7},
        {"machines": [], "unmatched": [7]},
        {"machines": [[*ONE.items()]], "unmatched": []},
        *({"machines": [one], "unmatched": []} for one in (7, {"socket": 7}, {**ONE, "name": 7}, {**ONE, "x": "y"})),
        *({"machines": [{**ONE, "client": one}], "unmatched": []} for one in (7, {}, {"name": "x", "pid": "{{ 1 }}"})),
        *(
            {"machines": [{**ONE, "interfaces": [one]}], "unmatched": []}
            for one in (7, {}, {"name": "x", "mac": "y", "addresses": ["z"]}, {"name": "x", "mac": "y", "addresses": 7})
        ),
    ],
)
def test_an_answer_that_is_none(tmp_path: Path, answer: Any) -> None:
    ssh = f"""#!{sys.executable}
import sys
request = sys.stdin.buffer.read()[{len(_runner_bundle.STUB)}:].splitlines()[0]
print(request.split()[0].decode(), "result", {json.dumps(answer)!r})
"""
    with pytest.raises(Unreachable, match="not a valid list of monitors"):
        read(tmp_path, ssh.replace("{", "{{").replace("}", "}}"))


def test_an_answer_without_an_end(tmp_path: Path) -> None:
    ssh = f"""#!{sys.executable}
import sys
request = sys.stdin.buffer.read()[{len(_runner_bundle.STUB)}:].splitlines()[0]
print(request.split()[0].decode(), "result", "[" * 100_000)
"""
    with pytest.raises(Unreachable):
        read(tmp_path, ssh)
