# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_console without QEMU: logs that are cut and replaced, lines that others hold, that end or never end."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.step import REDACTED
from ansible_collections.vmm.qemu.plugins.module_utils._operations import console_source, console_text
from support.modules import ModuleFailed, run_module
from support.timing import no_hang

Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture(autouse=True)
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QEMU_QMP_SOCKET", raising=False)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "serial.log"


def read(log: Path, *texts: str, **options: Any) -> dict[str, Any]:
    options.setdefault("expect", [{"text": text} for text in texts])
    return run_module(None, "qemu_console", **{"from": "log", "path": str(log), "timeout": 0.4, **options})


def failure(call: Callable[[], Any]) -> dict[str, Any]:
    with no_hang(20), pytest.raises(ModuleFailed) as failed:
        call()
    return failed.value.result


def test_a_log_is_read_on_where_it_was_left(log: Path) -> None:
    log.write_bytes(b"one\r\ntwo\r\nlogin: ")
    told = read(log, "one")
    assert (told["changed"], told["commands"], told["offset"]) == (False, [], 5)
    assert told["seen"] == ["one", "two", "login: "]
    told = read(log, "login:", offset=told["offset"])
    assert (told["seen"], told["offset"]) == (["two", "login: "], 17)
    failed = failure(lambda: read(log, "two", offset=told["offset"]))
    assert failed["msg"] == (f"expect[0]: text 'two' did not show on the log {log} within 0.4 s; nothing was seen")
    log.write_bytes(b"two\n")  # shorter: it was cut
    assert read(log, "two", offset=told["offset"])["offset"] == 4


def write_later(work: Callable[[], Any]) -> Callable[[], None]:
    """Do it after a moment; the function that is returned waits for its end."""
    timer = threading.Timer(0.3, work)
    timer.start()
    return timer.join


@pytest.mark.parametrize("way", ["made", "cut", "replaced"])
def test_a_log_that_comes_later_or_is_cut_or_replaced(log: Path, way: str) -> None:
    def change() -> None:
        if way == "replaced":
            os.rename(log, f"{log}.1")
        log.write_bytes(b"new\n")

    if way != "made":
        log.write_bytes(b"old line\nand a half")
    done = write_later(change)
    told = read(log, *(["half"] if way != "made" else []), "new", timeout=30)
    done()
    assert told["offset"] == 4 and told["seen"][-1] == "new"


def test_a_log_is_a_file_of_its_own(log: Path) -> None:
    os.mkfifo(log)
    assert failure(lambda: read(log, "x"))["msg"] == f"path: can't read {log}: it is not a regular file"
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert failure(lambda: read(log, "root"))["msg"] == f"path: can't read {log}: it is a symbolic link"
    log.unlink()
    assert failure(lambda: read(log, "x"))["msg"].endswith("within 0.4 s; there is no such file; nothing was seen")


def test_what_is_wrong_is_told_before_anything_is_done(log: Path) -> None:
    for options, message in (
        ({"expect": [{"text": ""}]}, "expect[0]: text '' is empty"),
        (
            {"expect": [{"text": "a\nb"}]},
            "expect[0]: text 'a\\nb' is more than one line, and each is looked at by itself",
        ),
        ({"expect": [{"regex": "(x"}]}, "expect[0]: '(x' is not a valid regular expression: missing ), "),
        ({"expect": [{"text": "x", "timeout": -1}]}, "expect[0].timeout: -1.0 is not a positive number of seconds"),
        ({"expect": [{"text": "x", "secret": True}]}, "expect[0]: secret is for an answer, and there is none"),
        ({"expect": []}, "there is nothing to do"),
        ({"stable": float("nan")}, "stable: nan is not a positive number of seconds"),
        ({"pace": 0.0, "expect": [{"text": "x"}]}, "pace: 0.0 is not a positive"),
        ({"offset": -1, "expect": [{"text": "x"}]}, "offset: -1 is less than 0"),
        (
            {"expect": [{"text": "x", "answer": "y"}]},
            "expect[0].answer: keys are pressed by the virtual machine's monitor",
        ),
        ({"keys": ["esc"]}, "keys: keys are pressed by the virtual machine's monitor: give its socket"),
        ({"from": "serial", "unless": "x", "text": "y"}, "unless: a serial socket does not tell"),
        ({"from": "serial", "offset": 5, "text": "y"}, "offset: 5 is a place in a log, and it is read from: serial"),
        ({"from": "serial", "path": "nowhere", "text": "y"}, "path: 'nowhere' is not a valid address of a serial line"),
        ({"from": "screen", "expect": [{"text": "x"}]}, "from: the screen is read by the virtual machine's monitor"),
        ({"path": "serial.log", "expect": [{"text": "x"}]}, "path: 'serial.log' is not an absolute path"),
    ):
        for check in (True, False):
            assert message in failure(partial(read, log, check=check, **options))["msg"]


def test_what_came_first_counts(log: Path) -> None:
    log.write_bytes(b"booting\nOverwrite? [y/N] ok\n")
    entries = [{"text": "License", "optional": True}, {"text": "Overwrite?", "optional": True}, {"text": "ok"}]
    assert [match["entry"] for match in read(log, expect=entries)["matched"]] == [1, 2]
    log.write_bytes(b"ok\n")
    assert [match["entry"] for match in read(log, expect=entries)["matched"]] == [2]
    log.write_bytes(b"[ 1.2] Oops: 0000 [#1]\nok\n")
    failed = failure(lambda: read(log, expect=entries, fail_on=["[Pp]anic", r"Oops: \d+"]))
    assert failed["msg"] == f"fail_on[1]: regex 'Oops: \\\\d+' shows on the log {log}: [ 1.2] Oops: 0000 [#1]"
    assert (failed["changed"], failed["seen"]) == (False, ["[ 1.2] Oops: 0000 [#1]", "ok"])
    log.write_bytes(b"ok\nOops: 0000\n")
    assert read(log, expect=entries, fail_on=["Oops"])["matched"]


def test_a_log_that_stays_the_same(log: Path) -> None:
    log.write_bytes(b"one\n")
    stop = threading.Event()

    def write() -> None:
        with log.open("ab", buffering=0) as file:
            while not stop.wait(0.02):
                file.write(b"more\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        failed = failure(lambda: read(log, "one", stable=0.5, timeout=1.5))
        assert f"stable: it did not stay the same for 0.5 s on the log {log} within 1.5 s" in failed["msg"]
        assert "fail_on[0]: regex 'more' shows" in failure(lambda: read(log, "one", stable=60, fail_on=["more"]))["msg"]
    finally:
        stop.set()
        writer.join()
    assert read(log, "one", stable=0.5, timeout=30)["matched"]


def test_the_time_of_one_ends_before_that_of_all(log: Path) -> None:
    log.write_bytes(b"first\n\x1b]0;title\x07\x1b[31mred\n")
    failed = failure(lambda: read(log, expect=[{"text": "first"}, {"regex": "^x", "timeout": 0.2}], timeout=600))
    assert failed["msg"] == (
        f"expect[1]: regex '^x' did not show on the log {log} within 0.2 s; its last lines: first / red"
    )
    assert [match["match"] for match in failed["matched"]] == ["first"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Listens as QEMU does for a serial line: `serve(work)` gives the address, and hands its first client to `work`."""
    directory = tempfile.mkdtemp(prefix="bed-", dir="/tmp")
    listener = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def start(work: Callable[[socket.socket], None]) -> str:
        listener.bind(f"{directory}/serial")
        listener.listen(1)

        def take() -> None:
            with listener.accept()[0] as client:
                work(client)

        threads.append(threading.Thread(target=take, daemon=True))
        threads[-1].start()
        return f"{directory}/serial"

    yield start
    listener.close()
    for thread in threads:
        thread.join(10)
    os.unlink(f"{directory}/serial")
    os.rmdir(directory)


def test_a_line_that_never_ends_does_not_last_longer_than_the_task(serve: Serve) -> None:
    def flood(client: socket.socket) -> None:
        try:
            while True:
                client.sendall(b"\x1b[31mflood" * 1000 + b"\n")
        except OSError:
            pass

    path = serve(flood)
    failed = failure(lambda: read(Path(path), "never", **{"from": "serial"}, timeout=1))
    assert "did not show on the serial line at" in failed["msg"] and len(failed["msg"]) < 1000
    assert sum(map(len, failed["seen"])) < 1 << 17


def test_a_secret_is_shown_nowhere(serve: Serve) -> None:
    heard: list[bytes] = []

    def guest(client: socket.socket) -> None:
        client.sendall(b"Password: ")
        while not heard or not heard[-1].endswith(b"\r"):
            heard.append(client.recv(100))
        client.sendall(b"it is open\r\nsesame\r\nand open sesame, and then open se")
        time.sleep(0.2)

    path = serve(guest)
    asked = [{"text": "Password:", "answer": "open sesame", "secret": True}, {"text": "never"}]
    failed = failure(lambda: read(Path(path), **{"from": "serial"}, expect=asked, timeout=30))
    assert b"".join(heard) == b"open sesame\r"
    assert failed["commands"] == [{"path": path, "action": "type", "text": REDACTED}] and failed["changed"]
    assert failed["seen"] == [
        f"Password: it is {REDACTED}",
        REDACTED,
        f"and {REDACTED}, and then {REDACTED}",
    ]
    assert "the virtual machine has ended" in failed["msg"]
    for word in ("open", "sesame"):
        assert word not in str(failed)


def test_many_lines_that_each_take_long_take_no_longer_than_the_task(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = [0]

    def slow(*args: Any) -> None:
        each[0] += 1
        time.sleep(0.2)

    monkeypatch.setattr(console_text, "first", slow)
    log.write_bytes(b"a\n" * 1000)
    assert "did not show" in failure(lambda: read(log, "x", timeout=0.5))["msg"]
    assert each[0] < 100


def test_nothing_is_typed_where_it_is_not_known_whether_it_shall_not(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_source, "_CHUNK", 1)
    log.write_bytes(b"a\n" * 1_000_000 + b"done\n")
    failed = failure(lambda: read(log, "x", unless="done", timeout=0.5))
    assert failed["msg"] == f"unless: the log {log} was not read to its end within 0.5 s"
    assert (failed["changed"], failed["commands"]) == (False, [])


def test_a_secret_of_more_lines_than_a_message_has_is_shown_nowhere(serve: Serve) -> None:
    secret = "".join(f"{number:03d}token" for number in range(50))

    def guest(client: socket.socket) -> None:
        client.sendall(b"boot: ")
        heard = b""
        while not heard.endswith(b"\r"):
            heard += client.recv(1000)
        client.sendall(b"".join(heard[at : at + 80] + b"\r\n" for at in range(0, len(heard) - 1, 80)) + b"Loading\r\n")

    asked = [{"text": "boot:", "answer": secret, "secret": True}, {"text": "never"}]
    failed = failure(lambda: read(Path(serve(guest)), **{"from": "serial"}, expect=asked, timeout=30))
    assert failed["msg"].endswith(f"its last lines: {REDACTED} / {REDACTED} / Loading")
    assert "token" not in str(failed)


@pytest.mark.parametrize("size", [5, 5_000_000])
def test_a_guest_that_does_not_read_what_is_typed(serve: Serve, size: int) -> None:
    done = threading.Event()

    def wait(client: socket.socket) -> None:
        done.wait(20)

    path = serve(wait)
    failed = failure(lambda: read(Path(path), **{"from": "serial"}, expect=None, text="x" * size, timeout=0.5))
    done.set()
    assert failed["msg"] == f"the serial line at {path}: the guest does not read what is typed"
    assert failed["changed"]


def test_a_line_that_somebody_else_has(serve: Serve) -> None:
    def wait(client: socket.socket) -> None:
        client.recv(1)

    path = serve(wait)
    ask = partial(read, Path(path), "x", **{"from": "serial"}, connect_timeout=0.3, timeout=30)
    with contextlib.ExitStack() as others:

        def connect() -> None:
            other = others.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(path)

        connect()
        for _round in range(2):  # at first there is a place to wait in, and then no more
            failed = failure(ask)
            assert f"the serial line at {path}: process {os.getpid()} (" in failed["msg"]
            assert "end that client, or read the line's log (from: log)" in failed["msg"]
            assert failed["changed"] is False
            for _round in range(4):
                connect()


def test_a_line_that_nobody_serves(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"socket": str(tmp_path / "qmp"), "keys": ["esc"], "text": "a"}
    foretold = read(tmp_path / "none", "x", **{"from": "serial"}, **asked, check=True)
    assert ["path" in command for command in foretold["commands"]] == [False, True] and foretold["changed"]
    failed = failure(lambda: read(tmp_path / "none", "x", **{"from": "serial"}))
    assert "No such file or directory; is the virtual machine running?" in failed["msg"]
