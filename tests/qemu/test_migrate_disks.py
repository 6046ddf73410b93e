# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_migrate with copy_disks: a guest and its disks go to another QEMU, and what may befall them on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chaos import Signalled
from support.copying import BACKEND, IDENT, MD5, Move, clean, has, wait_job, written
from support.lifecycle import names
from support.line import Line
from support.migration import incoming, migrate, wait_for
from support.modules import ModuleFailed, run_module
from support.timing import until
from support.vm import VM

Start = Callable[..., Move]


@pytest.fixture
def move() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def make(here: str = "10.0", to: str = "10.0", **options: Any) -> Move:
            made = Move(here, to, **options)
            stack.callback(made.close)
            return made

        yield make


@pytest.mark.parametrize(("here", "to"), [("7.2", "10.0"), ("10.0", "10.0")])
def test_a_disk_goes_along_with_a_guest_that_writes(move: Start, here: str, to: str) -> None:
    pair = move(here, to)
    before = pair.fill()
    pair.write()
    check = pair.listen  # asked again, it has been done
    assert check()["changed"] and not check()["changed"]
    options: dict[str, Any] = {"uri": pair.uri, "copy_disks": pair.disks}
    foretold = migrate(pair.source, check=True, **options)
    done = migrate(pair.source, **options)
    assert names(foretold) == names(done) and foretold["commands"] == done["commands"]
    assert names(done) == [
        "migrate-set-capabilities",
        "blockdev-add",
        "blockdev-mirror",
        "migrate",
        "block-job-cancel",
        "migrate-continue",
        "job-dismiss",
        "blockdev-del",
    ]
    assert done["guest"] == "left" and done["warnings"] == [] and clean(pair.source)
    assert pair.listen()["changed"] and pair.there.observer.look("query-block-exports") == []
    written(pair.there)
    assert pair.there.run_in_guest(MD5) == before
    assert not migrate(pair.source, **options)["changed"] and not pair.listen()["changed"]


# -- without an operating system: the disk is written to over the monitor -----------------------------------------------


@pytest.fixture(params=["7.2", "10.0"])
def pair(request: pytest.FixtureRequest, move: Start) -> Move:
    """One that runs, and one that waits and exports its disk."""
    made = move(request.param, "10.0", guest=False)
    made.put(0x11)
    made.listen()
    return made


def stays(pair: Move, *words: str, check: bool = False, **options: Any) -> dict[str, Any]:
    """It does not go, says why, runs on, and nothing is left of the copy."""
    with pytest.raises(ModuleFailed) as failed:
        pair.take(check=check, **options)
    said = failed.value.result
    assert all(word in said["msg"] for word in words), said["msg"]
    assert pair.source.observer.status() == "running" and clean(pair.source), said
    return said


def test_what_can_not_go_is_refused_before_anything_is_done(pair: Move, tmp_path: Any) -> None:
    address = pair.disks["address"]
    for given, *words in (
        ({"address": "10.0.0.1:10809"}, "not on this host", "tls_creds"),
        ({"address": "nowhere"}, "not a valid address"),
        ({"address": str(tmp_path / "none")}, "nobody listens"),
        ({"address": pair.there.qmp}, "does not export disks"),
        ({"address": address, "disks": ["other"]}, "no writable disk 'other'", "data"),
        ({"address": address, "disks": []}, "the list is empty"),
        ({"address": address, "tls_creds": "t0"}, "no object 't0'"),
        ({"address": address, "speed": "fast"}, "speed"),
        ({"address": address, "switch_timeout": 0}, "not a positive number"),
    ):
        for check in (True, False):
            assert stays(pair, *words, check=check, copy_disks=given)["commands"] == []
    for option, *words in (
        ({"wait": False}, "nobody is there to end the copies"),
        ({"on_timeout": "leave"}, "nobody is there to end the copies"),
        ({"postcopy_after": 1.0}, "in postcopy"),
        ({"capabilities": {"pause-before-switchover": False}}, "needs pause-before-switchover"),
        ({"state": "cancelled"}, "is for state=migrated"),
    ):
        assert stays(pair, *words, **option)["commands"] == []


def test_a_disk_of_another_size_does_not_go(move: Start) -> None:
    pair = move(guest=False)
    pair.there.close()
    pair.there = pair.start("10.0", waits=True, size="16M")
    pair.uri, pair.disks["address"] = f"unix:{pair.there.directory}/migrate", f"{pair.there.directory}/nbd"
    pair.listen()
    said = stays(pair, "disk data", "different sizes")
    assert said["error"]["class"] == "GenericError" and said["rolled_back"] and said["commands"] == []


@pytest.mark.parametrize("here", ["7.2", "10.0"])
@pytest.mark.parametrize("chain", ["flatten", "keep"])
def test_an_overlay_goes_along(move: Start, tmp_path: Path, here: str, chain: str) -> None:
    """What it stands on is not copied again where that is there already."""
    bases = tmp_path / "here", tmp_path / "there"
    for base in bases:
        base.write_bytes(bytes(8 << 20) + b"\x77" * (8 << 20))
    pair = move(here, guest=False, bases=(bases[0], bases[1] if chain == "keep" else None))
    pair.put(0x11)
    pair.put(0, "9M")  # zeroes over what is below
    pair.source.observer.hmp(f'qemu-io -d {BACKEND} "discard 10M 1M"')
    pair.listen()
    given = {"copy_disks": {**pair.disks, "chain": chain}}
    foretold = pair.take(check=True, **given)
    done = pair.take(**given)
    assert foretold["commands"] == done["commands"]
    mirror = next(sent for sent in done["commands"] if sent["execute"] == "blockdev-mirror")
    assert mirror["arguments"]["sync"] == {"flatten": "full", "keep": "top"}[chain]
    pair.listen()
    for byte, at in ((0x11, "1M"), (0x77, "8M"), (0, "9M"), (0, "10M"), (0x77, "11M"), (0, "20M")):
        assert has(pair.there, byte, at), at
    of_its_own = sum(extent["length"] for extent in mapped(pair.there) if extent["depth"] == 0 and extent["data"])
    assert of_its_own == (1 << 20 if chain == "keep" else 7 << 20)
    assert all(base.read_bytes() == bytes(8 << 20) + b"\x77" * (8 << 20) for base in bases)


def test_what_is_kept_is_what_was_proven(move: Start, tmp_path: Path) -> None:
    """Neither another file at the path of what QEMU has open, nor an overlay that has come since."""
    bases = tmp_path / "here", tmp_path / "there"
    for base in bases:
        base.write_bytes(b"\x77" * (8 << 20))
    pair = move(guest=False, bases=bases)
    pair.listen()
    proven = run_module(pair.source, "qemu_info", gather_subset=["images"])["vm"]["images"]["data"]["files"]
    given = {"copy_disks": {**pair.disks, "chain": "keep", "files": {"data": proven}}}
    os.link(bases[0], tmp_path / "opened")
    for base in bases:
        (tmp_path / "new").write_bytes(b"\x78" * (8 << 20))
        (tmp_path / "new").replace(base)
    for check in (True, False):
        assert stays(pair, str(bases[0]), "is another file by now", check=check, **given)["commands"] == []
    (tmp_path / "opened").replace(bases[0])
    assert pair.take(check=True, **given)["changed"]
    run_module(pair.source, "qemu_disk_snapshot", name="s")
    for check in (True, False):
        assert stays(pair, "disk data has the images", "data@s.qcow2", check=check, **given)["commands"] == []


def test_a_disk_that_was_replaced_at_its_path_is_another_at_the_destination(move: Start, tmp_path: Path) -> None:
    """With a disk that both see, the destination opens what is there now."""
    for bases in ((None, None), (tmp_path / "base", tmp_path / "base")):
        (tmp_path / "base").write_bytes(b"\x77" * (8 << 20))
        pair = move(guest=False, bases=bases)
        incoming(pair.there, pair.uri)
        path = bases[0] or pair.source.directory / "data"
        os.link(path, tmp_path / "opened")
        shutil.copy(path, tmp_path / "new")
        (tmp_path / "new").replace(path)
        for check in (True, False):
            said = stays(pair, f"{path} is another file by now", check=check, copy_disks=None)
            assert said["commands"] == []
        (tmp_path / "opened").replace(path)
        assert migrate(pair.source, check=True, uri=pair.uri)["changed"]


def test_a_disk_that_stands_alone_is_copied_in_whole(move: Start) -> None:
    """What the source has not written is zero, whatever an earlier run has left at the destination."""
    pair = move(guest=False)
    pair.listen()
    pair.there.observer.hmp('qemu-io data-node "write -P 0x99 4M 1M"')
    pair.put(0x11)
    pair.take(copy_disks={**pair.disks, "chain": "keep"})
    assert has(pair.there, 0x11) and has(pair.there, 0, "4M")


def mapped(vm: VM) -> list[dict[str, Any]]:
    line = ["qemu-img", "map", "-U", "--output=json", "-f", "qcow2", str(vm.directory / "data")]
    found: list[dict[str, Any]] = json.loads(subprocess.run(line, check=True, capture_output=True).stdout)
    return found


def test_a_destination_that_dies_while_its_disk_comes(pair: Move) -> None:
    killer = threading.Timer(0.0, lambda: (wait_job(pair.source, "running"), pair.there.kill()))
    killer.start()
    said = stays(pair, "disk data", "still here", copy_disks={**pair.disks, "speed": "1M"})
    killer.join()
    assert said["guest"] == "here" and said["commands"] == []
    pair.put(0x22)
    pair.replace_destination()
    pair.listen()
    assert pair.take()["guest"] == "left"
    assert pair.listen()["changed"] and has(pair.there, 0x22)


def test_a_destination_that_dies_when_the_guest_stands_still(pair: Move) -> None:
    """Another client has begun the migration, and seen to it that it waits. QEMU goes on for a moment when it is told to stop."""
    stopped = paused_before_switchover(pair)
    pair.there.kill()
    assert stopped["status"] == "pre-switchover"
    assert stays(pair, "disk data", "still here")["guest"] == "here"


def paused_before_switchover(pair: Move) -> dict[str, Any]:
    """A task is killed when the guest stands still, with its copy ready."""
    task = Signalled()

    def kill() -> None:
        wait_for(pair.source, "active")
        task.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    slow = {"max-bandwidth": 1 << 20}
    assert task.run(lambda: pair.take(parameters=slow)) is None
    killer.join()
    pair.source.observer.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
    wait_for(pair.source, "pre-switchover")
    found: dict[str, Any] = pair.source.observer.look("query-migrate")
    return found


def test_dirty_bitmaps_go_along(pair: Move) -> None:
    for name, more in (("kept", {"persistent": True}), ("lost", {})):
        pair.source.observer.execute("block-dirty-bitmap-add", node="data-node", name=name, granularity=65536, **more)
    pair.put(0x66, "4M")
    before = bitmaps(pair.source)
    assert before["kept"]["count"] == before["lost"]["count"] == 1 << 20
    assert pair.take()["warnings"] == []
    pair.listen()
    assert bitmaps(pair.there) == before


def bitmaps(vm: VM) -> dict[str, Any]:
    nodes = {node["node-name"]: node for node in vm.observer.look("query-named-block-nodes")}
    return {bitmap["name"]: bitmap for bitmap in nodes["data-node"].get("dirty-bitmaps", [])}


def test_a_killed_task_is_taken_up_where_the_guest_stands_still(pair: Move) -> None:
    paused_before_switchover(pair)
    done = pair.take()
    assert names(done)[-4:] == ["block-job-cancel", "migrate-continue", "job-dismiss", "blockdev-del"]
    assert done["guest"] == "left" and clean(pair.source)
    pair.listen()
    assert has(pair.there, 0x11) and pair.there.observer.status() == "running"


def test_the_guest_does_not_go_where_somebody_else_has_ended_its_copy(pair: Move) -> None:
    """Whether it wrote since, nobody knows."""
    paused_before_switchover(pair)
    pair.source.observer.execute("block-job-cancel", device=IDENT)
    wait_job(pair.source, "concluded")
    said = stays(pair, "was ended before", "still here")
    assert said["guest"] == "here" and "migrate-continue" not in names(said)


def but_cancels(run: dict[str, Any]) -> list[dict[str, Any]]:
    """What was sent besides: a copy whose line is cut may end by itself before it is cancelled."""
    return [one for one in run["commands"] if one["execute"] != "block-job-cancel"]


def test_a_killed_task_leaves_what_the_next_one_clears_up(pair: Move) -> None:
    task = Signalled()
    killer = threading.Thread(target=lambda: (wait_job(pair.source, "running"), task.kill()))
    killer.start()
    assert task.run(lambda: pair.take(copy_disks={**pair.disks, "speed": "1M"})) is None
    killer.join()
    wait_job(pair.source, "running")
    before = run_module(pair.source, "qemu_migrate", check=True, state="cancelled")
    done = run_module(pair.source, "qemu_migrate", state="cancelled")
    assert but_cancels(before) == but_cancels(done) != []
    assert clean(pair.source) and not run_module(pair.source, "qemu_migrate", state="cancelled")["changed"]
    killer = threading.Thread(target=lambda: (wait_job(pair.source, "running"), task.kill()))
    killer.start()
    assert task.run(lambda: pair.take(copy_disks={**pair.disks, "speed": "1M"})) is None
    killer.join()
    pair.put(0x33)
    foretold = pair.take(check=True)
    done = pair.take()
    assert but_cancels(foretold) == but_cancels(done) and {"yank", "job-dismiss"} < set(names(done))
    pair.listen()
    assert has(pair.there, 0x33) and clean(pair.source)


def test_a_task_that_is_told_to_stop_leaves_nothing(pair: Move) -> None:
    task = Signalled()
    killer = threading.Thread(target=lambda: (wait_job(pair.source, "running"), task.term()))
    killer.start()
    assert task.run(lambda: pair.take(copy_disks={**pair.disks, "speed": "1M"})) is None
    killer.join()
    assert clean(pair.source) and pair.source.observer.status() == "running"


@pytest.mark.parametrize("fault", ["reset", "silent"])
def test_a_line_that_breaks_while_the_disk_is_copied(pair: Move, fault: str) -> None:
    """A silent one would keep QEMU from answering as soon as anything stops its disks."""
    with Line(pair.disks["address"], 1 << 19, fault) as line:
        disks = {**pair.disks, "address": line.uri[len("tcp:") :]}
        said = stays(pair, "still here", copy_disks=disks, timeout=5)
        assert said["guest"] == "here"
        pair.put(0x44)


@pytest.mark.parametrize("here", ["7.2", "10.0", "11.1"])
def test_a_line_that_falls_silent_when_the_guest_stands_still(move: Start, here: str) -> None:
    """The destination is told that nothing comes any more: a source that has not done so may crash with its next migration."""
    pair = move(here, guest=False)
    pair.listen()
    with Line(pair.disks["address"], None, "silent") as line:
        disks = {"address": line.uri[len("tcp:") :], "switch_timeout": 2.0}

        def silence() -> None:
            wait_for(pair.source, "active")
            line.strike_at(line.passed)
            pair.put(0x55)
            pair.source.observer.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 30})

        breaker = threading.Thread(target=silence)
        breaker.start()
        begun = time.monotonic()
        stays(pair, "still here", copy_disks=disks, parameters={"max-bandwidth": 1 << 20}, timeout=60)
        breaker.join()
        assert time.monotonic() - begun < 40
    until(lambda: pair.source.observer.status() == "running")
    until(lambda: not pair.there.alive)
    pair.replace_destination()
    pair.listen()
    assert pair.take()["guest"] == "left"


@pytest.mark.parametrize("here", ["7.2", "10.0", "11.1"])
def test_lines_that_fall_silent_in_the_last_phase(move: Start, here: str) -> None:
    """The guest is stopped, since it may run there. That of its disk would keep QEMU from that, and from all else."""
    pair = move(here)
    pair.source.run_in_guest("dd if=/dev/urandom of=/tmp/random bs=1M count=80 2>/dev/null; echo done", timeout=600)
    pair.listen()
    disks = Line(pair.disks["address"], None, "silent")
    guest = Line(pair.uri[len("unix:") :], 15 << 20, "silent", strike=lambda: disks.strike_at(disks.passed))
    with disks, guest:
        # all of it goes in the last phase, for which QEMU lifts the limit
        most = {"downtime-limit": 2000000, "max-bandwidth": 32 << 20}
        given = {"address": disks.uri[len("tcp:") :]}
        with pytest.raises(ModuleFailed) as failed:
            pair.take(uri=guest.uri, copy_disks=given, parameters=most, timeout=15)
        said = failed.value.result
        assert guest.struck and said["guest"] == "unknown" and "Look there" in said["msg"], said
        assert pair.source.observer.status() == "paused"
    run_module(pair.source, "qemu_power", state="running")
    assert clean(pair.source) or run_module(pair.source, "qemu_migrate", state="cancelled")["changed"]
    assert clean(pair.source)
