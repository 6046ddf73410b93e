# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host does with a task: it keeps code where only this user can write, and begins nothing where that is not so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.plugin_utils._runner_bundle import STUB

PLUGINS = Path(__file__).resolve().parents[4] / "plugins"
OURS = "ansible_collections.vmm.qemu.plugins.module_utils."
# A task that says what it was given, or leaves that as a file, or ends in its middle.
RUNNER = """
import os
def prepare(task):
    if task == "unprepared":
        raise ImportError("no such module")
    def run():
        if task == "killed":
            os.kill(os.getpid(), 9)
        if task == "broken":
            raise RuntimeError("a bug")
        if task == "sources":
            return {name: text[:9] for name, (_package, text) in __loader__.sources().items() if name.endswith("_runner")}
        return {"task": task}
    return run
"""


def bundle(runner: str = RUNNER) -> bytes:
    """A bundle of the installer and a runner of the test's own."""
    sources = {
        f"{OURS}_runner": (False, runner),
        f"{OURS}_runner_install": (False, (PLUGINS / "module_utils" / "_runner_install.py").read_text()),
        "ansible.module_utils.common.arg_spec": (False, ""),
    }
    for name in list(sources):
        while name := name.rpartition(".")[0]:
            sources.setdefault(name, (True, ""))
    return zlib.compress(json.dumps(sources).encode())


class Host:
    """Runs the stub as a host does, and keeps its code below a directory of the test's own."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp / "remote"
        self.kept = self.tmp / f"vmm.qemu-{os.geteuid()}"

    def ask(self, task: Any = "t", sent: bytes = b"", cut: int = 0, pack: str = "p") -> tuple[list[str], int]:
        """What it says after the mark, and its exit status. ``cut``: so many bytes of the request are lost."""
        request = json.dumps({"mark": "M", "pack": pack, "remote_tmp": str(self.tmp), "task": task}).encode() + b"\n"
        request = (request + sent)[: -cut or None]
        code = f"import sys;exec(sys.stdin.buffer.read({len(STUB)}))"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], input=STUB + request, capture_output=True, check=False
        )
        said = [line[2:] for line in done.stdout.decode().splitlines() if line.startswith("M ")]
        return said, done.returncode

    def packs(self) -> list[Path]:
        return sorted(self.kept.iterdir())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


RAN = (["begun null", 'result {"task": "t"}'], 0)


def test_a_first_task_and_the_next(host: Host) -> None:
    assert host.ask() == (["absent null"], 0)
    assert not host.tmp.exists()
    assert host.ask(sent=bundle()) == RAN
    (pack,) = host.packs()
    assert host.kept.stat().st_mode & 0o777 == 0o700 and pack.stat().st_mode & 0o777 == 0o600
    made = pack.stat()
    assert host.ask() == RAN
    assert host.ask(pack="another") == (["absent null"], 0)
    assert pack.stat().st_mtime_ns == made.st_mtime_ns


def test_directories_above_are_this_users_alone_too(host: Host) -> None:
    above = host.tmp
    host.tmp, host.kept = above / "tmp", above / "tmp" / host.kept.name
    umask = os.umask(0)
    try:
        assert host.ask(sent=bundle()) == RAN
    finally:
        os.umask(umask)
    assert [path.stat().st_mode & 0o777 for path in (above, host.tmp, host.kept)] == [0o700] * 3


def test_the_sources_are_kept_too(host: Host) -> None:
    host.ask(sent=bundle())
    assert host.ask("sources") == (["begun null", f"result {json.dumps({f'{OURS}_runner': RUNNER[:9]})}"], 0)


def test_a_pack_in_use_is_touched_once_a_day(host: Host) -> None:
    host.ask(sent=bundle())
    (pack,) = host.packs()
    os.utime(pack, (0, time.time() - 2 * 86400))
    assert host.ask() == RAN
    assert time.time() - pack.stat().st_mtime < 3600


def link_directory(host: Host) -> None:
    host.kept.rename(host.tmp / "elsewhere")
    host.kept.symlink_to("elsewhere")


def link_pack(host: Host) -> None:
    (pack,) = host.packs()
    pack.rename(host.tmp / "elsewhere")
    pack.symlink_to("../elsewhere")


def fifo(host: Host) -> None:
    (pack,) = host.packs()
    pack.unlink()
    os.mkfifo(pack, 0o600)


ODD: dict[str, Callable[[Host], object]] = {
    "a directory that is a link": link_directory,
    "a pack that is a link": link_pack,
    "a pipe": fifo,
    "a directory that others can read": lambda host: host.kept.chmod(0o755),
    "a pack that others can write": lambda host: host.packs()[0].chmod(0o620),
    "a file in the directory's place": lambda host: (host.kept.rename(host.tmp / "x"), host.kept.write_text("")),
}
if os.geteuid() == 0:
    ODD["somebody else's directory"] = lambda host: os.chown(host.kept, 65534, 0)
    ODD["somebody else's pack"] = lambda host: os.chown(host.packs()[0], 65534, 0)


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_what_is_odd_is_not_run(host: Host, change: Callable[[Host], object]) -> None:
    host.ask(sent=bundle())
    change(host)
    (said,), status = host.ask()
    assert said.startswith("odd ") and status == 0


@pytest.mark.parametrize("text", [b"", b"x", b"\xe3garbage"])
def test_a_broken_pack_is_made_anew(host: Host, text: bytes) -> None:
    host.ask(sent=bundle())
    (pack,) = host.packs()
    pack.write_bytes(text)
    assert host.ask() == (["absent null"], 0)
    assert host.ask(sent=bundle()) == RAN
    assert host.ask() == RAN


def test_a_bundle_that_comes_incomplete(host: Host) -> None:
    (said,), _status = host.ask(sent=bundle(), cut=9)
    assert said.startswith("odd ")
    assert not host.tmp.exists()


def test_a_request_that_comes_incomplete(host: Host) -> None:
    host.ask(sent=bundle())
    assert host.ask(cut=9) == ([], 1)


def test_what_this_python_lacks_shows_before_anything_is_kept(host: Host) -> None:
    (said,), _status = host.ask(sent=bundle("import no_such_library"))
    assert said.startswith("odd ") and "no_such_library" in said
    assert not host.packs()


def test_an_old_python_says_what_it_is(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "STUB", STUB.replace(b"0x3080000", b"0x9080000"))
    (said,), status = host.ask(sent=bundle())
    version = sys.version.split()[0]
    told = f"vmm.qemu needs Python 3.8 or later on the managed host, and {sys.executable} there is {version}"
    assert (said, status) == (f"old {json.dumps(told)}", 0)
    assert not host.tmp.exists()


def test_a_full_disk_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on a file's size stands in for it: the write fails half way."""
    code = STUB.replace(
        b"import gc\n",
        b"import gc\nimport resource, signal\nresource.setrlimit(1, (99, 99))\n"
        b"signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n",
        1,
    )
    monkeypatch.setattr(sys.modules[__name__], "STUB", code)
    (said,), _status = host.ask(sent=bundle())
    assert said.startswith("odd ") and "File too large" in said
    assert not host.packs()


@pytest.mark.parametrize(
    ("task", "said", "status"),
    [
        ("unprepared", ['odd "ImportError: no such module"'], 0),
        ("killed", ["begun null"], -9),
        ("broken", ["begun null"], 130),
    ],
)
def test_how_a_task_can_end(host: Host, task: str, said: list[str], status: int) -> None:
    host.ask(sent=bundle())
    assert host.ask(task) == (said, status)


def test_old_packs_are_swept(host: Host) -> None:
    host.ask(sent=bundle())
    (old,) = host.packs()
    old.unlink()
    now = time.time()
    ages = {"day1": 1, "day2": 2, "day3": 3, "day4": 4, ".half": 1, ".making": 0}
    for name, age in ages.items():
        (host.kept / name).write_text("")
        os.utime(host.kept / name, (0, now - age * 86400))
    (host.kept / "old").write_text("")
    os.utime(host.kept / "old", (0, now - 31 * 86400))
    assert host.ask(sent=bundle()) == RAN
    assert [path.name for path in host.packs()] == sorted([".making", "day1", "day2", "day3", old.name])


def test_two_at_once(host: Host) -> None:
    code = f"import sys;exec(sys.stdin.buffer.read({len(STUB)}))"
    request = json.dumps({"mark": "M", "pack": "p", "remote_tmp": str(host.tmp), "task": "t"}).encode() + b"\n"
    command = [sys.executable, "-I", "-S", "-c", code]
    running = [subprocess.Popen(command, stdin=-1, stdout=-1) for _number in range(4)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write(STUB + request + bundle())
        process.stdin.flush()
    assert all(b"M result " in process.communicate()[0] for process in running)
    assert len(host.packs()) == 1
