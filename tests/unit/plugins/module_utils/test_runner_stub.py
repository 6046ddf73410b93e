# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host does with a task: it keeps code where only this user can write, and begins nothing where that is not so."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.plugin_utils._runner_bundle import PACK, STUB
from support.timing import until

PLUGINS = Path(__file__).resolve().parents[4] / "plugins"
OURS = "ansible_collections.vmm.qemu.plugins.module_utils."
# A task that says what it was given, or leaves that as a file, or ends in its middle.
RUNNER = """
import os
begun = []
def imported(module):
    pass
def prepare(task):
    if task == "unprepared":
        raise ImportError("no such module")
    def run():
        if task == "killed":
            os.kill(os.getpid(), 9)
        if task == "broken":
            raise RuntimeError("a bug")
        begun.append(task)
        if task == "process":
            umask = os.umask(0)
            return {"parent": os.getppid(), "begun": len(begun), "umask": umask, "directory": os.getcwd(), "X": os.environ.get("X")}
        if isinstance(task, list) and task[0] == "file":
            with open(task[1], "a") as file:
                print("once", file=file)
        if isinstance(task, list) and task[0] == "until":
            import signal, time
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
            with open(task[1], "w") as file:
                file.write(str(os.getpid()))
            time.sleep(60)
        if task == "sources":
            return {name: text[:9] for name, (_package, text) in __loader__.sources().items() if name.endswith("_runner")}
        return {"task": task}
    return run
"""


def bundle(runner: str = RUNNER, patience: float = 60.0) -> bytes:
    """A bundle of the installer and a runner of the test's own. A busy machine may take its time: ``patience`` is in seconds."""
    names = ("_runner_ask", "_runner_install", "_runner_process")
    ours = {name: (PLUGINS / "module_utils" / f"{name}.py").read_text() for name in names}
    assert "_PATIENCE = 1.0" in ours["_runner_ask"]
    ours["_runner_ask"] = ours["_runner_ask"].replace("_PATIENCE = 1.0", f"_PATIENCE = {patience}")
    sources = {
        **{f"{OURS}{name}": (False, text) for name, text in {**ours, "_runner": runner}.items()},
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

    def request(self, task: Any, pack: str = "p", idle: int = 0) -> bytes:
        """What comes after the stub, but for a bundle."""
        line = f"M {pack} {idle}  {len(PACK)} {self.tmp}\n".encode()
        return line + PACK + json.dumps(task).encode() + b"\n"

    def begin(self, sent: bytes, python: str = sys.executable, **how: Any) -> subprocess.Popen[bytes]:
        """The process that Ansible begins. It has what is sent, and no more."""
        code = f"import sys;exec(sys.stdin.buffer.read({len(STUB)}))"
        process = subprocess.Popen([python, "-I", "-S", "-c", code], stdin=-1, stdout=-1, stderr=-1, **how)
        assert process.stdin is not None
        process.stdin.write(STUB + sent)
        process.stdin.flush()
        return process

    def ask(
        self, task: Any = "t", sent: bytes = b"", cut: int = 0, pack: str = "p", idle: int = 0, **how: Any
    ) -> tuple[list[str], int]:
        """What it says after the mark, and its exit status. ``cut``: so many bytes of the request are lost."""
        process = self.begin((self.request(task, pack, idle) + sent)[: -cut or None], **how)
        output, _errors = process.communicate()
        return [line[2:] for line in output.decode().splitlines() if line.startswith("M ")], process.returncode

    def packs(self) -> list[Path]:
        return sorted(self.kept.iterdir())

    def sockets(self) -> list[Path]:
        """Those of the processes that wait."""
        return [path for path in self.packs() if path.is_socket()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


RAN = (["begun null", 'result {"task": "t"}'], 0)


@pytest.mark.parametrize(
    ("remote_tmp", "home", "place"),
    [
        ("~/.ansible/tmp", "{}", "{}/.ansible/tmp"),
        ("~/.ansible/tmp", "{}/", "{}/.ansible/tmp"),
        ("~/.ansible/tmp", "{}/\udcff", "{}/\udcff/.ansible/tmp"),
        *[("~/.ansible/tmp", root, "/.ansible/tmp" if os.geteuid() == 0 else "~/.ansible/tmp") for root in ("", "/")],
        ("~/.ansible/tmp", None, "~/.ansible/tmp"),
        ("~", "{}", "{}"),
        ("~root/x", "{}", "/root/x"),
        ("/var/x y", None, "/var/x y"),
        ("/", None, ""),
        ("$HOME/x", "{}", "{}/x"),
        ("${HOME}/~", "{}", "{}/~"),
        ("x/~", "{}", "x/~"),
    ],
)
def test_where_packs_are(tmp_path: Path, remote_tmp: str, home: str | None, place: str) -> None:
    """As Ansible's own shell would have it; but never in the home of another user, as HOME is after some changes of user."""
    os.mkdir(f"{tmp_path}/\udcff")
    own = pwd.getpwuid(os.geteuid()).pw_dir
    wanted = place.format(tmp_path).replace("~", own) if place.startswith("~") else place.format(tmp_path)
    code = f"import sys;exec(sys.stdin.buffer.read().replace(b'__main__',b''));print(ascii(directory({remote_tmp!r})))"
    environment = {} if home is None else {"HOME": home.format(tmp_path)}
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, input=STUB, check=True, stdout=subprocess.PIPE, env=environment)
    assert done.stdout.decode().strip() == ascii(f"{wanted}/vmm.qemu-{os.geteuid()}")


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


def altered(data: bytes, place: int) -> bytes:
    """With one bit that is another one."""
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: b"x",
    "zeros": lambda data: bytes(len(data)),
    "what asks": lambda data: altered(data, 8 + len_of(data) // 2),
    "its length": lambda data: altered(data, 4),
    "the index": lambda data: altered(data, 8 + len_of(data) + 8 + 40),
    "what runs": lambda data: altered(data, data.rindex(b"_run_for") + 2),
    "its end": lambda data: data[: data.rindex(b"_run_for")],
}


def len_of(data: bytes) -> int:
    """The length of a pack's first part."""
    return int.from_bytes(data[4:8], "big")


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN)
def test_a_broken_pack_is_made_anew(host: Host, spoil: Callable[[bytes], bytes]) -> None:
    host.ask(sent=bundle())
    (pack,) = host.packs()
    pack.write_bytes(spoil(pack.read_bytes()))
    assert host.ask(idle=1) == (["absent null"], 0)
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
    running = [host.begin(host.request("t") + bundle()) for _number in range(4)]
    assert all(b"M result " in process.communicate()[0] for process in running)
    assert len(host.packs()) == 1


def result(said: tuple[list[str], int]) -> dict[str, Any]:
    """That of a task that ran."""
    (begun, text), status = said
    assert begun == "begun null" and text.startswith("result ") and status == 0
    found: dict[str, Any] = json.loads(text.partition(" ")[2])
    return found


def who_runs(host: Host, idle: int = 60, **how: Any) -> int:
    """Wait until a process that waits runs a task, and return its number."""
    found: list[int] = []

    def is_there() -> bool:
        found.append(result(host.ask("process", idle=idle, **how))["parent"])
        return found[-1] != os.getpid()

    until(is_there)
    return found[-1]


@pytest.fixture
def waiting(host: Host) -> Iterator[int]:
    """The number of a process that waits, which the first task has left."""
    host.ask(sent=bundle(), idle=300)
    number = who_runs(host, idle=300)
    yield number
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def test_a_process_that_waits_runs_tasks(host: Host, waiting: int, tmp_path: Path) -> None:
    """Each in a process that has run no other, with what the one has that Ansible began."""
    for number in range(2):
        how: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "X": f"\udcff{number}\n"}}
        found = result(host.ask("process", idle=300, **how))
        umask = os.umask(0)
        os.umask(umask)
        told = {"begun": 1, "umask": umask, "directory": str(tmp_path), "X": f"\udcff{number}\n"}
        assert found == {"parent": waiting, **told}
    assert result(host.ask(["x" * 2_000_000], idle=300)) == {"task": ["x" * 2_000_000]}
    assert host.ask("unprepared", idle=300) == (['odd "ImportError: no such module"'], 0)
    assert host.ask("broken", idle=300) == (["begun null"], 130)
    assert host.ask("killed", idle=300) == (["begun null"], 137)
    assert result(host.ask("process", idle=300))["parent"] == waiting


@pytest.mark.parametrize(
    "how",
    [
        {"umask": 0o027},
        {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))},
        {"preexec_fn": lambda: os.nice(1)},
        {"preexec_fn": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN)},
        {"env": {**os.environ, "TZ": "Asia/Tokyo"}},
        {"preexec_fn": lambda: ctypes.CDLL(None).personality(0x0040000)},
        {"preexec_fn": lambda: ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)},
        {"python": os.path.realpath(sys.executable)},
    ],
    ids=["umask", "limit", "nice", "signal", "zone", "personality", "huge pages", "python"],
)
def test_it_serves_those_alone_that_are_as_it_is(host: Host, waiting: int, how: dict[str, Any]) -> None:
    assert result(host.ask("process", **how))["parent"] == os.getpid()
    other = who_runs(host, **how)
    assert other != waiting
    os.kill(other, signal.SIGKILL)
    assert result(host.ask("process", idle=300))["parent"] == waiting


def test_another_version_of_the_code_has_its_own(host: Host, waiting: int) -> None:
    host.ask(sent=bundle(RUNNER.replace('"X"', '"Y"')), pack="q", idle=60)
    wait_for(host, 2)
    found = result(host.ask("process", pack="q", idle=60))
    assert "Y" in found and found["parent"] not in (waiting, os.getpid())
    assert "X" in result(host.ask("process", idle=300))


def test_it_ends_when_none_has_come_for_so_long(host: Host) -> None:
    host.ask(sent=bundle(), idle=1)
    until(lambda: bool(host.sockets()))
    until(lambda: not host.sockets())
    assert result(host.ask("process"))["parent"] == os.getpid()
    assert not host.sockets()  # with 0, none is left


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("whole", [True, False])
def test_one_that_does_not_answer(host: Host, tmp_path: Path, how: signal.Signals, whole: bool) -> None:
    """The task is run all the same, once, and what it leaves waits in the other's place. ``whole``: its fork does not, either."""
    host.ask(sent=bundle(patience=1.0), idle=300)
    waiting = who_runs(host, idle=300)
    until(lambda: bool(forks(waiting)))
    them = [waiting, *(forks(waiting) if whole else [])]
    try:
        for process in them:
            os.kill(process, how)
        ran = tmp_path / "ran"
        for turn in range(1, 3):
            assert result(host.ask(["file", str(ran)], idle=60))
            assert ran.read_text() == "once\n" * turn
    finally:
        for process in them:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
    time.sleep(0.5)
    assert ran.read_text() == "once\n" * 2
    assert who_runs(host) != waiting
    until(lambda: not any(map(is_alive, them)))


def forks(waiting: int) -> list[int]:
    """Those of a process that waits."""
    return [int(one) for one in Path(f"/proc/{waiting}/task/{waiting}/children").read_text().split()]


# Asks as the stub does, as far as it is told, and ends.
ASKS = """
import os, socket, sys
os.chdir(sys.argv[1])
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[2])  # a whole path is too long
    far, request = int(sys.argv[3]), sys.argv[4].encode()
    if far > 0:
        client.sendall(bytes(8))
        assert len(client.recv(8)) == 8
    if far > 1:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, sys.byteorder) for fd in (1, 2, 0)))
        client.sendmsg([(len(request) + 1).to_bytes(8, "big")], [rights])
    if far > 2:
        client.sendall(request)
"""


@pytest.mark.parametrize("far", range(4))
def test_one_that_asks_and_goes_away(host: Host, waiting: int, tmp_path: Path, far: int) -> None:
    """Nothing is begun that has not come whole."""
    (path,) = host.sockets()
    ran = tmp_path / "ran"
    request = f"M\n{json.dumps(['file', str(ran)])}\nX=1"
    command = [sys.executable, "-I", "-S", "-c", ASKS, str(path.parent), path.name, str(far), request]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert result(host.ask("process", idle=300))["parent"] == waiting
    assert not ran.exists()


def test_one_that_may_not_what_it_may(host: Host, waiting: int) -> None:
    """What others say of themselves does not count."""
    (path,) = host.sockets()
    command = [sys.executable, "-I", "-S", "-c", ASKS, str(path.parent), path.name, "1", ""]
    for how in ({"umask": 0o026}, {"env": {"LD_LIBRARY_PATH": "/x"}}):
        assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL, **how).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGQUIT])
def test_a_task_ends_with_what_ansible_began(host: Host, waiting: int, tmp_path: Path, number: signal.Signals) -> None:
    begun = tmp_path / "begun"
    process = host.begin(host.request(["until", str(begun)], idle=300))
    assert process.stdin is not None
    process.stdin.close()
    until(lambda: begun.exists() and bool(begun.read_text()))
    process.send_signal(number)
    # it passes SIGTERM on from the moment that it waits for the task
    assert process.wait() in ({-number, 137} if number == signal.SIGTERM else {-number})
    until(lambda: not is_alive(int(begun.read_text())))
    assert result(host.ask("process", idle=300))["parent"] == waiting


def is_alive(number: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        return ") Z " not in Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False


def test_it_keeps_nothing_open_that_others_wait_for(host: Host) -> None:
    heard, told = os.pipe()
    host.ask(sent=bundle(), idle=300, pass_fds=[told])
    os.close(told)
    assert select.select([heard], [], [], 20)[0] and os.read(heard, 1) == b""
    assert who_runs(host, idle=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_directory_where_this_user_can_not_be(host: Host, tmp_path: Path) -> None:
    """As root's home is for the user that a task becomes."""
    private = tmp_path / "private"
    private.mkdir(0o700)
    python = "/usr/bin/python3"  # others can't use one in a home
    how: dict[str, Any] = {
        "cwd": private,
        "user": 65534,
        "group": 65534,
        "extra_groups": [],
        "idle": 5,
        "python": python,
    }
    with tempfile.TemporaryDirectory(prefix="bed-", dir="/tmp") as directory:
        os.chown(directory, 65534, 65534)
        host.tmp, host.kept = Path(directory), Path(directory) / "vmm.qemu-65534"
        host.ask(sent=bundle(), **how)
        until(lambda: bool(host.sockets()))
        found = [result(host.ask("process", **how, env={**os.environ, "HOME": home})) for home in (directory, "/none")]
        assert len({one["parent"] for one in found}) == 1 and os.getpid() != found[0]["parent"]
        assert [one["directory"] for one in found] == [directory, "/"]


def test_one_that_could_not_do_as_the_other_is_no_loss(host: Host) -> None:
    """Here for want of descriptors, which the fork finds out before it begins."""
    how: dict[str, Any] = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)), "idle": 5}
    host.ask(sent=bundle())
    assert [host.ask(**how) for _turn in range(3)] == [RAN] * 3


def test_it_ends_when_another_is_in_its_place(host: Host, waiting: int) -> None:
    (path,) = host.sockets()
    path.unlink()
    assert result(host.ask("process", idle=60))["parent"] == os.getpid()
    until(lambda: not is_alive(waiting))
    assert who_runs(host) != waiting


def test_it_is_not_what_it_was(host: Host, waiting: int) -> None:
    for process in (waiting, *forks(waiting)):
        os.setpriority(os.PRIO_PROCESS, process, os.getpriority(os.PRIO_PROCESS, process) + 1)
    assert result(host.ask("process", idle=300))["parent"] == os.getpid()


def wait_for(host: Host, number: int) -> None:
    """Wait until so many wait."""
    until(lambda: len(host.sockets()) == number)


def at_work(host: Host) -> set[int]:
    """The processes that have the packs' directory open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(host.kept) in map(os.readlink, (process / "fd").iterdir()):
                found.add(int(process.name))
    return found


def test_how_many_wait_and_what_others_have_left(host: Host, waiting: int) -> None:
    def asked(number: int) -> int:
        def change() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (number, number))

        parent: int = result(host.ask("process", idle=300, preexec_fn=change))["parent"]
        return parent

    for number in range(9):
        asked(number)
        wait_for(host, min(2 + number, 8))
    ours = {asked(number) for number in range(9)} - {os.getpid()}
    assert len(ours) == 7
    # those that were too many have ended by then, and a fork ends a moment after its server
    until(lambda: at_work(host) == {one for process in (waiting, *ours) for one in (process, *forks(process))})
    them = [*ours, *(fork for process in ours for fork in forks(process))]
    for process in ours:
        os.kill(process, signal.SIGKILL)
    until(lambda: not any(map(is_alive, them)))
    assert len(host.sockets()) == 8
    asked(99)
    wait_for(host, 2)
    os.kill(asked(99), signal.SIGKILL)


def test_one_that_is_asked_by_many_and_stands_still(host: Host, waiting: int) -> None:
    """It is not waited for by those that count who waits, when it can't take one more."""
    (path,) = host.sockets()
    them = [waiting, *forks(waiting)]
    for process in them:
        os.kill(process, signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as stack, contextlib.chdir(path.parent):
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(path.name)
            other = who_runs(host, umask=0o026)
            os.kill(other, signal.SIGKILL)
    finally:
        for process in them:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def test_nowhere(host: Host) -> None:
    sent = host.request("t").replace(str(host.tmp).encode(), b"$NONE")
    process = host.begin(sent, env={"NONE": ""})
    output, _errors = process.communicate()
    assert output.decode().strip() == 'M odd "Odd: remote_tmp is empty"'


@pytest.mark.parametrize("put", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_something_else_in_its_place(host: Host, waiting: int, put: Callable[[Path], object]) -> None:
    (path,) = host.sockets()
    path.unlink()
    put(path)
    assert result(host.ask("process", idle=60))["parent"] == os.getpid()
    if path.is_dir():
        assert result(host.ask("process"))["parent"] == os.getpid()
    else:
        assert who_runs(host) != waiting
