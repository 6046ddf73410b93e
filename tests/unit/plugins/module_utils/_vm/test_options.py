# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a whole VM's options whatever the host is like, and the command line that they make."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.action.qemu_info import validate
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._host import command_line
from ansible_collections.vmm.qemu.plugins.module_utils._vm.arguments import arguments
from ansible_collections.vmm.qemu.plugins.module_utils._vm.host_items import copied_images, image_to_come
from ansible_collections.vmm.qemu.plugins.module_utils._vm.options import Place, checked
from ansible_collections.vmm.qemu.plugins.module_utils._vm.rehearsal import _without_host
from ansible_collections.vmm.qemu.plugins.modules.qemu_vm import MODULE


def options(**given: Any) -> dict[str, Any]:
    """The options as the module gets them."""
    params, error, _hidden = validate(MODULE, "qemu_vm", {"name": "vm1", "user": "", **given})
    assert not error, error
    return checked(params)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": ".."}, "A name has at most 64 letters"),
        ({"name": "a" * 65}, "A name has at most 64 letters"),
        ({"name": "vm1\n"}, "A name has at most 64 letters"),
        ({"directory": "/etc"}, "ends in the name"),
        ({"directory": "/x/../vm1"}, "absolute path"),
        ({"directory": "x/vm1"}, "absolute path"),
        ({"directory": "/x\nExecStart=/bin/sh/vm1"}, "absolute path"),
        ({"vcpus": 4, "vcpus_max": 2}, "vcpus is 4, and vcpus_max 2"),
        ({"vcpus": 0}, "vcpus is 0"),
        ({"uefi_vars": "/vars.fd"}, "uefi_code, which it belongs to"),
        ({"disk_size": "1Q"}, "disk_size: "),
        ({"memory": "lots"}, "memory: 'lots' is not a valid size"),
        ({"root_ports": -1}, "root_ports: -1"),
        ({"disk": "/v/vm1/run/disk.qcow2", "directory": "/v/vm1"}, "goes with state=absent"),
        *(
            ({"disk": f"/v/vm1/{name}", "directory": "/v/vm1"}, "where this module keeps something else")
            for name in ("vm.json", "./vm.json", "saved", "saved.old", "saved.part", "moving", "uefi-vars.fd")
        ),
        (
            {"disks": [{"id": "d", "filename": "/v/vm1/saved"}], "directory": "/v/vm1", "remove_data": True},
            "keeps something else",
        ),
        ({"image": "debian.qcow2"}, "neither a URL nor an absolute path"),
        ({"image": "/debian.qcow2", "image_checksum": "0123"}, "write it as sha256:HEX"),
        ({"image": "/debian.qcow2", "image_checksum": "sha256:https://x/SUMS"}, "write it as sha256:HEX"),
        ({"start_timeout": 0}, "not a positive number"),
        ({"variables_prefix": "vm_"}, "give it to the task itself"),
        ({"shutdown_timeout": -1}, "not a number of seconds"),
        ({"arguments": {"object": {"qom-type": "secret", "id": "s", "data": "hush"}}}, "in plain words"),
        ({"vnc": ":1,password=hush"}, "in plain words"),
        ({"objects": [{"id": "s", "qom_type": "secret", "options": {"data": "hush"}}]}, "give the secret as a file"),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        options(**given)
    assert "hush" not in str(refused.value)


def test_another_user_takes_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    with pytest.raises(Refusal, match="only root can have QEMU run as root"):
        options(user="root")


def line(**given: Any) -> list[str]:
    params = options(**given)
    return command_line.expand(arguments(params, Place(params["directory"], None), None))


@pytest.mark.parametrize(
    ("given", "machine", "firmware", "drivers"),
    [
        (
            {"binary": "qemu-system-x86_64"},
            "q35",
            "bios",
            ["pcie-root-port", "virtio-serial-pci", "virtio-rng-pci", "VGA"],
        ),
        (
            {"binary": "qemu-system-x86_64", "machine": "pc"},
            "pc",
            "bios",
            ["pcie-root-port", "virtio-serial-pci", "VGA"],
        ),
        (
            {"binary": "qemu-system-aarch64"},
            "virt",
            "uefi",
            ["pcie-root-port", "virtio-rng-pci", "virtio-keyboard-pci"],
        ),
        ({"binary": "qemu-system-aarch64", "firmware": "bios"}, "virt", "bios", ["virtio-gpu-pci"]),
        ({"binary": "qemu-system-ppc64"}, "pseries", "bios", ["virtio-balloon-pci", "virtio-gpu-pci"]),
        ({"binary": "qemu-system-s390x"}, "s390-ccw-virtio", "bios", ["virtio-serial-ccw", "virtio-tablet-ccw"]),
        ({"binary": "qemu-system-x86_64", "machine": "microvm"}, "microvm", "bios", ["virtio-blk-device"]),
        (
            {"binary": "qemu-system-x86_64", "machine": "microvm", "machine_options": {"pcie": "on"}},
            *("microvm", "bios", ["virtio-blk-pci"]),
        ),
    ],
)
def test_each_machine_has_what_its_buses_take(
    given: dict[str, Any], machine: str, firmware: str, drivers: list[str]
) -> None:
    params = options(**given)
    assert (params["machine"], params["firmware"]) == (machine, firmware)
    made = line(**given, disk_size="1M", vnc=":1")
    devices = [value for option, value in zip(made, made[1:]) if option == "-device"]
    named = [device.replace("driver=", "").partition(",")[0] for device in devices]
    assert set(drivers) <= set(named)
    assert ("pcie-root-port" in named) == (machine in ("q35", "pc", "virt"))
    other = {"s390-ccw-virtio": "-pci", "microvm": "-ccw"}.get(machine, "-ccw")
    assert not [name for name in named if name.endswith(other)]


def test_what_is_empty_says_nothing() -> None:
    assert line(disk_size="", user_data="", cpu="", vnc="", network_config={}) == line(cpu="")
    assert "-cpu" not in line(cpu="") and "-vnc" not in line()


def test_lists_are_added_to() -> None:
    given = {"device": {"driver": "virtio-keyboard-pci"}, "chardev": ["null,id=c0"], "m": "32M"}
    made = line(disk_size="1M", arguments=given)
    devices = [value for option, value in zip(made, made[1:]) if option == "-device"]
    assert (
        devices[-1] == "driver=virtio-keyboard-pci"
        and "driver=virtio-blk-pci,id=disk,drive=disk-node,bootindex=1" in devices
    )
    assert "null,id=c0" in made and made[made.index("-m") + 1] == "32M"


def test_another_instance_id_is_another_seed() -> None:
    seeds = [text for text in line(user_data="x", meta_data={"instance-id": "second"}) if "id=seed" in text]
    assert "serial=" in seeds[0]
    assert not [text for text in line(user_data="x") if "serial=" in text]


def test_a_guest_that_comes_from_elsewhere_is_waited_for() -> None:
    assert "-S" in line() and "-incoming" not in line()
    assert "-S" not in line(incoming=True) and "defer" in line(incoming=True)


def test_a_rehearsal_has_nothing_of_the_hosts() -> None:
    params = options(
        disk_size="1M",
        kernel="/vmlinuz",
        arguments={
            "netdev": ["tap,id=n0,ifname=tap0"],
            "device": ["e1000,netdev=n0", "vfio-pci,host=01:00.0"],
            "drive": "file=/disk,,x.img,id=d0,if=none",
            "object": ["memory-backend-file,id=m0,size=64M,mem-path=/dev/hugepages", "tls-creds-x509,id=t0,dir=/pki"],
            "monitor": "stdio",
            "fw_cfg": "name=opt/x,file=/etc/shadow",
        },
    )
    text = " ".join(command_line.expand(_without_host(arguments(params, Place("/srv/vm1", None), None), {})))
    for path in ("/srv", "/disk", "/dev", "/pki", "/etc", "/vmlinuz", "tap", "vfio", "stdio"):
        assert path not in text
    for kept in (
        "id=rp7",
        "node-name=disk-node",
        "id=n0",
        "id=d0",
        "driver=e1000,netdev=n0",
        "qom-type=memory-backend-ram,id=m0",
    ):
        assert kept in text


# -- disks that come along ---------------------------------------------------------------------------------------------


def a_copied_disk(*files: str) -> dict[str, Any]:
    return {"size": 1 << 20, "used": 4096, "top_used": 1024, "writable": True, "files": list(files)}


@pytest.mark.parametrize(
    ("ident", "files", "given", "words"),
    [
        ("disk", ["a", "b", "c"], {}, "has 3 images at the source (a, b, c), and two can be kept: commit what is in a"),
        (
            "disk",
            ["a", "b"],
            {"image": None, "disk_size": "1M"},
            "disk disk has backing file b at the source, and no option names",
        ),
        ("more", ["a", "b"], {}, "disk more has backing file b at the source, and no option names"),
    ],
)
def test_a_chain_that_can_not_be_made_here(
    tmp_path: Path, ident: str, files: list[str], given: dict[str, Any], words: str
) -> None:
    disks = [{"id": "more", "filename": f"{tmp_path}/more", "format": "raw"}]
    where = {"directory": f"{tmp_path}/vm1", "image": f"{tmp_path}/base", "disk": f"{tmp_path}/disk", "disks": disks}
    params = options(
        **{**where, **given}, incoming=True, copied_chain="keep", copied_disks={ident: a_copied_disk(*files)}
    )
    with pytest.raises(Refusal, match=re.escape(words)):
        list(copied_images(params, Place(f"{tmp_path}/vm1", None), None, check_mode=False))
    params["copied_chain"] = "flatten"
    (item,) = copied_images(params, Place(f"{tmp_path}/vm1", None), None, check_mode=False)
    assert "backing_file" not in item.want


def test_an_overlay_is_made_on_the_same_image_here(tmp_path: Path) -> None:
    (tmp_path / "base").touch()
    where = {
        "directory": f"{tmp_path}/vm1",
        "image": f"{tmp_path}/base",
        "image_format": "raw",
        "disk": f"{tmp_path}/disk",
    }
    params = options(**where, incoming=True, copied_chain="keep", copied_disks={"disk": a_copied_disk("a", "b")})
    (item,) = copied_images(params, Place(f"{tmp_path}/vm1", None), None, check_mode=False)
    assert (item.want["backing_file"], item.want["backing_format"]) == (f"{tmp_path}/base", "raw")
    params["image"] = "http://localhost/base"
    with pytest.raises(Refusal, match="has to be fetched") as told:
        list(copied_images(params, Place(f"{tmp_path}/vm1", None), None, check_mode=False))
    assert told.value.details["image_needed"] == image_to_come(params)
    params["copied_chain"] = "flatten"
    assert image_to_come(params) is None
