# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_export: what clients see, and who loses what when an export goes. The VMs are paused."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from support import nbd
from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.proxy import Proxy
from support.timing import until
from support.vm import OLDEST, VERSIONS, VM


@pytest.fixture(scope="module", params=[OLDEST, *VERSIONS])
def qemu_version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture
def vm(start_vm: Any) -> VM:
    """It has a disk `data` that begins with 0xda, and a node `spare`."""
    started: VM = start_vm(scsi=True)
    add(started, "data-node", started.image("data.qcow2", "16M", "qcow2"), "qcow2")
    add(started, "spare", started.image("spare.img"), "raw")
    plug(started, "data", "data-node")
    assert started.observer.hmp('qemu-io -d data "write -P 0xda 0 64k"') == ""
    return started


@pytest.fixture
def export(vm: VM) -> Lifecycle:
    return Lifecycle(vm, "qemu_export")


@pytest.fixture
def at(vm: VM) -> str:
    return str(vm.directory / "nbd")


def add(vm: VM, node: str, path: str, driver: str, **more: Any) -> None:
    vm.observer.send(
        "blockdev-add",
        {"driver": driver, "node-name": node, "file": {"driver": "file", "filename": path}, **more},
    )


def plug(vm: VM, device: str, node: str, **more: Any) -> None:
    vm.observer.send("device_add", {"driver": "scsi-hd", "id": device, "bus": "scsi0.0", "drive": node, **more})


def there(vm: VM) -> dict[str, str]:
    """The node of each export, by its id: by the second monitor."""
    return {item["id"]: item["node-name"] for item in vm.observer.look("query-block-exports")}


def test_a_whole_life(export: Lifecycle, at: str) -> None:
    vm = export.vm
    given: dict[str, Any] = {"id": "backup", "device": "data", "name": "disk", "listen": at}
    export.refused("listen: there is no NBD export yet", id="backup", device="data")
    made = export.step(**given)
    assert names(made) == ["nbd-server-start", "block-export-add"]
    assert made["export"] == {"id": "backup", "type": "nbd", "node": "data-node"}
    assert export.same(**given)["unverifiable"] == ["name", "listen"]
    assert nbd.first_bytes(f"nbd+unix:///disk?socket={at}", 0xDA)
    assert "readonly" in nbd.listed("--socket", at)

    second = export.step(id="second", node="spare", writable=True)
    assert names(second) == ["block-export-add"] and "export: 'spare'" in nbd.listed("--socket", at)
    with pytest.raises(ModuleFailed, match="in use by export second"):
        run_module(vm, "qemu_blockdev", check=True, node_name="spare", state="absent")
    with pytest.raises(ModuleFailed, match="in use by export backup"):
        run_module(vm, "qemu_disk", check=True, id="data", state="absent")
    other: dict[str, Any] = {"id": "third", "node": "spare", "name": "x", "listen": f"{at}-2"}
    export.refused("QEMU has one NBD server, which serves", "second", **other)
    assert names(export.step(**{**other, "listen": at})) == ["block-export-add"]

    # an external snapshot takes the export along, as it does the device
    overlay = {"node-name": "data-node", "snapshot-file": f"{at}.qcow2", "snapshot-node-name": "over"}
    vm.observer.send("blockdev-snapshot-sync", {**overlay, "format": "qcow2"})
    export.same(**given)
    assert vm.observer.hmp('qemu-io -d data "write -P 0x22 0 64k"') == ""
    assert nbd.first_bytes(f"nbd+unix:///disk?socket={at}", 0x22)
    base: dict[str, Any] = {"id": "backup", "node": "data-node", "name": "disk"}
    export.refused("node is 'over', wanted 'data-node'", "recreate", **base)
    assert names(export.step(**base, recreate=True)) == ["block-export-del", "block-export-add"]
    assert there(vm)["backup"] == "data-node" and nbd.first_bytes(f"nbd+unix:///disk?socket={at}", 0xDA)

    for ident in ("backup", "third"):
        assert names(export.step(id=ident, state="absent")) == ["block-export-del"]
    assert nbd.listed("--socket", at)
    assert names(export.step(id="second", state="absent")) == ["block-export-del", "nbd-server-stop"]
    assert there(vm) == {} and not Path(at).exists()


def test_clients_are_not_cut_off(export: Lifecycle, at: str) -> None:
    vm = export.vm
    given: dict[str, Any] = {"id": "e0", "node": "spare", "listen": at}
    export.step(**given)
    with nbd.Client(at, "spare") as client:
        with pytest.raises(ModuleFailed, match=r"has clients that are connected.*force=true") as failed:
            run_module(vm, "qemu_export", id="e0", state="absent", timeout=1)
        assert failed.value.result["pending"] and failed.value.result["commands"] == []
        assert there(vm) == {"e0": "spare"}
        done: dict[str, Any] = {}
        waiting = threading.Thread(
            target=lambda: done.update(run_module(vm, "qemu_export", id="e0", state="absent", timeout=120))
        )
        waiting.start()
        until(vm.attended)
    waiting.join()
    assert names(done) == ["block-export-del", "nbd-server-stop"] and there(vm) == {}
    export.step(**given)
    with nbd.Client(at, "spare") as client:
        gone = export.step(id="e0", state="absent", force=True)
        assert gone["commands"][0]["arguments"] == {"id": "e0", "mode": "hard"}
        assert client.cut_off() and there(vm) == {}


def test_half_done(export: Lifecycle, at: str) -> None:
    """What a run that was killed has left is used by the next; a failure takes the server back."""
    vm = export.vm
    bad: dict[str, Any] = {"id": "e0", "node": "spare", "listen": at, "options": {"iothread": "none"}}
    failed = export.refused("none", "taken back: nbd-server-stop", foretold=False, **bad)
    assert failed["commands"] == [] and there(vm) == {} and not Path(at).exists()
    vm.observer.send("nbd-server-start", {"addr": {"type": "unix", "data": {"path": at}}})
    export.refused("listens at another address: end it first", foretold=False, id="e0", node="spare", listen=f"{at}-2")
    assert names(export.step(id="e0", node="spare", listen=at)) == ["block-export-add"]
    again: dict[str, Any] = {**bad, "node": "data-node", "recreate": True}
    export.refused("none", "taken back: block-export-add", foretold=False, **again)
    assert there(vm) == {"e0": "spare"}
    # another client has one when ours goes: the server stays for it
    vm.observer.send("block-export-add", {"type": "nbd", "id": "other", "node-name": "spare", "name": "o"})
    export.step(id="e0", state="absent")
    assert "'o'" in nbd.listed("--socket", at)


@pytest.mark.parametrize("fault", ["lose", "cut"])
def test_a_connection_that_breaks(vm: VM, at: str, fault: str) -> None:
    """What was begun is taken back, or seen through where that can be told; the next run does the rest."""
    given: dict[str, Any] = {"id": "e0", "node": "spare", "listen": at}
    gone: dict[str, Any] = {"id": "e0", "state": "absent"}
    for command in ("nbd-server-start", "block-export-add"):
        with Proxy(vm.qmp, fault, command) as proxy, pytest.raises(ModuleFailed, match=command):
            run_module(proxy.address, "qemu_export", **given)
        assert proxy.struck and there(vm) == {} and not Path(at).exists()
    run_module(vm, "qemu_export", **given)
    with Proxy(vm.qmp, fault, "block-export-del") as proxy:
        if fault == "cut":
            run_module(proxy.address, "qemu_export", **gone)
        else:
            with pytest.raises(ModuleFailed, match="block-export-del"):
                run_module(proxy.address, "qemu_export", **gone)
    assert proxy.struck and there(vm) == ({} if fault == "cut" else {"e0": "spare"})
    run_module(vm, "qemu_export", **given)
    with Proxy(vm.qmp, fault, "nbd-server-stop") as proxy, pytest.raises(ModuleFailed, match="nbd-server-stop"):
        run_module(proxy.address, "qemu_export", **gone)
    assert proxy.struck and there(vm) == {}
    run_module(vm, "qemu_export", **given)
    assert "'spare'" in nbd.listed("--socket", at)
    run_module(vm, "qemu_export", **gone)
    assert there(vm) == {} and not Path(at).exists()


def test_on_tcp_with_tls(export: Lifecycle) -> None:
    vm = export.vm
    (vm.directory / "keys.psk").write_text(f"qemu:{'ab' * 32}\n")
    for end in ("server", "client"):
        more = {"endpoint": end, "dir": str(vm.directory)}
        vm.observer.send("object-add", {"qom-type": "tls-creds-psk", "id": end, **more})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        given: dict[str, Any] = {"id": "e0", "node": "spare", "listen": address}
        export.refused(f"somebody else listens at {address}", **given)
    export.refused("there is no object 'none'", **given, tls_creds="none")
    export.refused("credentials of a client", **given, tls_creds="client")
    assert names(export.step(**given, tls_creds="server")) == ["nbd-server-start", "block-export-add"]
    where = ["--bind", "127.0.0.1", "--port", address.rpartition(":")[2]]
    assert "export: 'spare'" not in nbd.listed(*where)
    assert names(export.step(id="e1", node="data-node", listen=address, tls_creds="server")) == ["block-export-add"]
    told = run_module(vm, "qemu_export", check=True, id="e2", node="data-node", name="x", tls_creds="server")
    assert told["warnings"] == ["tls_creds: the NBD server runs already, and whether it has TLS can't be told"]
    export.step(id="e1", state="absent")
    keys = f"tls-creds-psk,id=t,dir={vm.directory},endpoint=client"
    assert "export: 'spare'" in nbd.listed(*where, "--object", keys, "--tls-creds", "t")
    assert names(export.step(id="e0", state="absent")) == ["block-export-del", "nbd-server-stop"]
    export.step(**given)
    export.refused("runs already, without TLS", id="e1", node="data-node", listen=address, tls_creds="server")
    export.step(id="e0", state="absent")
    unix = {**given, "listen": str(vm.directory / "nbd"), "tls_creds": "server"}
    if vm.version == OLDEST:
        export.refused("TLS is only supported with IPv4/IPv6", foretold=False, **unix)
        return
    export.step(**unix)


def test_a_bitmap_for_its_clients(export: Lifecycle, at: str) -> None:
    vm = export.vm
    given: dict[str, Any] = {"id": "e0", "device": "data", "listen": at, "bitmaps": ["bk"]}
    export.refused("data-node has no bitmap 'bk'", **given)
    run_module(vm, "qemu_bitmap", node="data", name="bk")
    vm.observer.hmp('qemu-io -d data "write 1M 64k"')
    export.refused("bitmaps: bk records what is written", "enabled=false", **given)
    run_module(vm, "qemu_bitmap", node="data", name="bk", enabled=False)
    export.step(**given)
    assert "qemu:dirty-bitmap:bk" in nbd.listed("--socket", at)
    map_ = ["qemu-img", "map", "--output=json", "--image-opts"]
    seen = f"driver=nbd,server.type=unix,server.path={at},export=data-node,x-dirty-bitmap=qemu:dirty-bitmap:bk"
    dirty = subprocess.run([*map_, seen], capture_output=True, text=True, check=True).stdout
    assert '"start": 1048576, "length": 65536' in dirty
    with pytest.raises(ModuleFailed, match="in use by a job or an export"):
        run_module(vm, "qemu_bitmap", node="data", name="bk", state="absent")
    export.refused("bk is in use by a job or another export", **{**given, "id": "e1", "name": "again"})


def test_who_may_write(export: Lifecycle, at: str) -> None:
    vm = export.vm
    given: dict[str, Any] = {"id": "e0", "listen": at, "writable": True}
    export.refused("has more than 4096 bytes", **given, device="data", name="x" * 4097)
    export.refused("writable: device data has block node data-node", **given, device="data")
    add(vm, "frozen", vm.image("frozen.img"), "raw", **{"read-only": True})
    export.refused("writable: block node frozen is read-only", **given, node="frozen")
    add(vm, "both", vm.image("both.img"), "raw")
    plug(vm, "shared", "both", **{"share-rw": True})
    made = export.step(**given, device="shared")
    assert there(vm) == {"e0": "both"}
    made = run_module(vm, "qemu_export", check=True, id="e1", node="both", writable=True, name="x")
    assert "the guest writes to block node both by device shared" in made["warnings"][0]
    vm.observer.execute("cont")
    vm.observer.send("block-export-del", {"id": "e0"})
    vm.observer.send("migrate", {"uri": "exec:cat >/dev/null"})
    until(lambda: vm.observer.status() == "postmigrate")
    export.refused("can't be exported now: the virtual machine is postmigrate", id="e2", node="spare", listen=f"{at}2")


def test_a_disk_that_is_migrated_here(start_vm: Any) -> None:
    """The source's mirror writes to it before the guest arrives."""
    vm = start_vm(args=["-incoming", "defer"])
    add(vm, "n0", vm.image("a.qcow2", "16M", "qcow2"), "qcow2")
    at = str(vm.directory / "nbd")
    Lifecycle(vm, "qemu_export").step(id="e0", node="n0", writable=True, listen=at)
    assert "readonly" not in nbd.listed("--socket", at)
    with nbd.Client(at, "n0"):
        run_module(vm, "qemu_export", id="e0", state="absent", force=True)


def test_paths_that_are_taken(export: Lifecycle, at: str) -> None:
    vm, path = export.vm, Path(at)
    given: dict[str, Any] = {"id": "e0", "node": "spare"}
    export.refused("there is no block node 'none'; there are:", id="e0", node="none", listen=at)
    export.refused("export e0 does not exist yet", id="e0", listen=at)
    export.refused("node and device say the same", **given, device="data", listen=at)
    path.write_text("precious")
    for kind in ("nbd", "vhost-user-blk"):
        export.refused("is a file, which QEMU would delete", **given, type=kind, listen=at)
        for wrong in ("relative", "h:x", "@abstract", "::1:10809"):
            export.refused(f"listen: {wrong!r} is not a valid address", **given, type=kind, listen=wrong)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{at}-{kind}")
            server.listen()
            export.refused("listens at", "give another path", **given, type=kind, listen=f"{at}-{kind}")
        export.refused("qemu", "listens at", **given, type=kind, listen=vm.qmp)
    export.refused("listens at a UNIX socket", **given, type="vhost-user-blk", listen="127.0.0.1:10809")
    export.refused("mountpoint: an export of type nbd has no such option", **given, listen=at, mountpoint=at)
    export.refused("node-name has an option of its own", **given, listen=at, options={"node-name": "data-node"})
    assert path.read_text() == "precious"


def test_vhost_user(export: Lifecycle, at: str) -> None:
    vm = export.vm
    given: dict[str, Any] = {"id": "e0", "node": "spare", "type": "vhost-user-blk", "listen": at, "writable": True}
    assert names(export.step(**given, options={"num-queues": "2"})) == ["block-export-add"]
    assert Path(at).is_socket()
    export.refused("type is 'vhost-user-blk', wanted 'nbd'", id="e0", node="spare", type="nbd", listen=at)
    assert names(export.step(id="e0", state="absent")) == ["block-export-del"]
    assert there(vm) == {} and not Path(at).exists()


def test_fuse(export: Lifecycle) -> None:
    vm = export.vm
    shown = vm.directory / "shown"
    given: dict[str, Any] = {"id": "e0", "device": "data", "type": "fuse", "mountpoint": str(shown)}
    if vm.version == OLDEST:
        export.refused("this QEMU was built without exports of type fuse, or is too old for them", **given)
        return
    export.refused("shown does not exist: make an empty file", **given)
    export.refused("is a directory", **{**given, "mountpoint": str(vm.directory)})
    export.refused("give its path", id="e0", node="spare", type="fuse")
    shown.touch()
    link = vm.directory / "link"
    link.symlink_to(shown)
    export.refused("link is there and is a symbolic link", **{**given, "mountpoint": str(link)})
    assert names(export.step(**given)) == ["block-export-add"]
    with shown.open("rb") as disk:
        assert disk.read(65536) == b"\xda" * 65536
    assert names(export.step(id="e0", state="absent")) == ["block-export-del"]
    until(lambda: shown.stat().st_size == 0)
