# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller makes of what a host says: a task that may have been begun is never run a second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.loader import become_loader

from ansible_collections.vmm.qemu.plugins.action.qemu_info import host_spec, validate
from ansible_collections.vmm.qemu.plugins.module_utils._runner import _log, expand
from ansible_collections.vmm.qemu.plugins.modules import qemu_disk, qemu_image, qemu_nic
from ansible_collections.vmm.qemu.plugins.plugin_utils import _runner, _runner_bundle

TASK = {"module": "vmm.qemu.qemu_disk"}


def words_of(sent: bytes) -> list[str]:
    """The line after the stub."""
    return sent[len(_runner_bundle.STUB) :].split(b"\n")[0].decode().split(" ")


class Action:
    """Stands in for an action plugin, whose host says what it is told to: each time lines after the mark, or others."""

    def __init__(self, *answers: tuple[list[str], int]) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []
        shell = SimpleNamespace(SHELL_FAMILY="sh")
        self._connection = SimpleNamespace(
            transport="ssh", has_pipelining=True, always_pipeline_modules=False, become=None, _shell=shell
        )
        self._task = SimpleNamespace(delegate_to=None, async_val=0)
        self._templar = SimpleNamespace(template=lambda value: value)

    def get_become_option(self, _name: str) -> None:
        return None

    def get_shell_option(self, _name: str, default: str) -> str:
        return default

    def _low_level_execute_command(self, _command: str, in_data: bytes) -> dict[str, Any]:
        self.sent.append(in_data)
        lines, rc = self.answers.pop(0)
        mark = words_of(in_data)[0]
        text = "".join(f"{mark} {line[1:]}\n" if line.startswith("*") else f"{line}\n" for line in lines)
        return {"rc": rc, "stdout": f"Welcome!\n{text}", "stderr": "from the host"}


@pytest.fixture(autouse=True)
def local_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path))


def run(action: Action, **variables: Any) -> dict[str, Any] | None:
    return _runner.Runner(action, {"ansible_python_interpreter": "/python", **variables}).run(TASK)


RESULT = '*result {"changed": true}'


@pytest.mark.parametrize(
    "answers",
    [
        [(["*begun null", RESULT], 0)],
        [(["*absent null"], 0), (["*begun null", RESULT], 0)],
        [(["*begun null", RESULT, '*odd "it broke afterwards"'], 0)],
    ],
)
def test_a_result(answers: list[tuple[list[str], int]]) -> None:
    action = Action(*answers)
    assert run(action) == {"changed": True}
    assert not action.answers
    assert len(action.sent[-1]) > 100_000 if len(answers) == 2 else len(action.sent[0]) < 15_000


def test_what_was_found_out_about_the_interpreter_is_told() -> None:
    """As core tells it of a module's process, before 2.19 by this list."""
    action: Any = Action((["*begun null", '*result {"changed": true, "warnings": ["odd"]}'], 0))
    action._discovery_warnings = ["it may be another one"]
    assert run(action) == {"changed": True, "warnings": ["odd", "it may be another one"]}


@pytest.mark.parametrize("value", [datetime(2024, 1, 2, 10, 0, 0), date(2024, 1, 2)])
def test_a_timestamp_is_text_as_json_has_it(value: date) -> None:
    given = {"path": value, "format": "raw", "size": "1M"}
    params, error, _hidden = validate(qemu_image.MODULE, "qemu_image", given)
    assert not error and params["path"] == value.isoformat()


def test_a_bundle_has_its_own_name_after_the_run_has_updated_the_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    run(Action((["*begun null", RESULT], 0)))
    monkeypatch.setattr(_runner_bundle, "_digest", lambda: "new")
    action = Action((["*absent null"], 0), (["*begun null", RESULT], 0))
    run(action)
    packs = [words_of(sent)[1] for sent in action.sent]
    assert packs[0] != "new" and packs[1] == "new"


@pytest.mark.parametrize(
    "answers",
    [
        [(['*odd "a link"'], 0)],
        [(["*absent null"], 0), (['*odd "no space"'], 0)],
        [(["*absent null"], 0), (["*absent null"], 0)],
        [([], 127)],  # no such interpreter
        [(["sudo: sorry, you must have a tty to run sudo"], 1)],
    ],
)
def test_what_was_not_begun_is_left_to_the_module(answers: list[tuple[list[str], int]]) -> None:
    action = Action(*answers)
    assert run(action) is None
    assert not action.answers
    assert run(Action()) is None  # nor is the host asked again
    assert run(Action((["*begun null", RESULT], 0)), ansible_python_interpreter="/other") == {"changed": True}


@pytest.mark.parametrize(
    "answer",
    [
        (["*begun null"], 0),
        (["*begun null"], 1),
        (["*begun null", '*odd "it broke then"'], 0),
        (["*begun null", RESULT[:-4]], 255),
        (["*begun null", '*result "text"'], 0),
        ([], 0),
        ([], 137),
        ([], -9),
    ],
)
def test_what_may_have_been_begun_is_not_run_again(answer: tuple[list[str], int]) -> None:
    result = run(Action(answer))
    assert result is not None and result["failed"]
    assert "was lost" in result["msg"] and f"status {answer[1]}" in result["msg"] and result["module_stderr"]


def test_an_old_python_is_one_sentence() -> None:
    assert run(Action((['*old "that of 1991"'], 0))) == {"failed": True, "msg": "that of 1991"}


def test_the_log_takes_any_text() -> None:
    """What was begun would be lost by it."""
    _log("vmm.qemu.qemu_disk", "path=/\udcff")


def test_a_host_does_not_say_what_only_ansible_may() -> None:
    said = '*result {"changed": true, "_ansible_no_log": false, "ansible_facts": {"x": 1}, "add_host": {}}'
    assert run(Action(([said], 0))) == {"changed": True}


def usable(**changed: Any) -> bool:
    action = Action()
    for name, value in changed.items():
        setattr(action._connection, name, value)
    return _runner.Runner(action, {}).usable()


def test_which_connections_it_can_use() -> None:
    assert usable()
    assert [name for name in ("sudo", "su") if usable(become=become_loader.get(name))] == ["sudo"]
    assert not usable(has_pipelining=False)
    assert not usable(always_pipeline_modules=True)
    assert not usable(_remote_is_local=True)
    assert not usable(_shell=SimpleNamespace(SHELL_FAMILY="powershell"))


@pytest.mark.parametrize(("value", "wanted"), [("false", False), (False, False), ("yes", True), (True, True)])
def test_it_can_be_switched_off(value: Any, wanted: bool) -> None:
    assert _runner.Runner(Action(), {"vmm_qemu_runner": value}).usable() == wanted


@pytest.mark.parametrize("seconds", [0, "7", 86400])
def test_how_long_a_process_waits_there(seconds: Any) -> None:
    action = Action((["*begun null", RESULT], 0))
    run(action, vmm_qemu_runner_idle=seconds)
    assert words_of(action.sent[0])[2:4] == [str(seconds), "qemu_disk"]


@pytest.mark.parametrize("seconds", [-1, "soon", None, 86401])
def test_how_long_no_process_can_wait(seconds: Any) -> None:
    with pytest.raises(AnsibleActionFail, match=f"{seconds!r} is not a number of seconds between 0 and 86400"):
        run(Action(), vmm_qemu_runner_idle=seconds)


def test_files_of_a_task_are_kept_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DEFAULT_KEEP_REMOTE_FILES", True)
    assert not usable()


def test_paths_are_expanded_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/controller")
    module = qemu_image.MODULE
    given = {"path": "~/$DISK", "backing_file": 7}
    params, error, _hidden = validate(module, "qemu_image", given, host_spec(module.argument_spec, {}))
    assert not error and params["path"] == "~/$DISK" and params["backing_file"] == "7"
    monkeypatch.setenv("HOME", "/host")
    monkeypatch.setenv("DISK", "d")
    assert expand(params, module.options)["path"] == "/host/d"


def test_paths_in_lists_and_in_other_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/host")
    given = {
        "socket": "~/s",
        "id": "n",
        "netdev": {"type": "tap", "vhostfds": ["~/a", "/b"]},
        "tls": {"ca_path": "~/ca"},
    }
    module = qemu_nic.MODULE
    params, error, _hidden = validate(module, "qemu_nic", given, host_spec(module.argument_spec, {}))
    params = expand(params, module.options)
    assert not error and params["tls"]["ca_path"] == "/host/ca" and params["socket"] == "~/s"
    assert params["netdev"]["vhostfds"] == ["/host/a", "/b"]


def test_the_socket_of_the_tasks_environment_and_not_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU_QMP_SOCKET", "/controllers")
    spec = host_spec(qemu_disk.MODULE.argument_spec, {"QEMU_QMP_SOCKET": "/hosts"})
    assert validate(qemu_disk.MODULE, "qemu_disk", {"id": "d"}, spec)[0]["socket"] == "/hosts"


def test_the_bundle_is_whole(tmp_path: Path) -> None:
    """Everything in it can be imported where there is nothing but Python's own library; documentation stays here."""
    sources = json.loads(zlib.decompress(_runner_bundle.bundle()))
    for name, (package, text) in sources.items():
        path = tmp_path.joinpath(*name.split("."))
        path = path / "__init__.py" if package else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = [name for name in sources if not name.startswith("ansible.") or name.endswith(".arg_spec")]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); [__import__(name) for name in {names!r}]"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, env={"PATH": os.environ["PATH"]})
    assert not any("short_description" in text for _package, text in sources.values())
