# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which machine and which firmware a VM has that names none, and what the host's packages say of theirs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._host import command_line
from ansible_collections.vmm.qemu.plugins.module_utils._vm import firmware, machine_type

Describe = Callable[..., str]


@pytest.mark.parametrize(
    ("binary", "architecture"),
    [
        ("/usr/bin/qemu-system-aarch64", "aarch64"),
        ("qemu-system-arm64", "aarch64"),  # Debian's names
        ("/opt/qemu/bin/qemu-system-ppc64el", "ppc64"),
        ("qemu-system-x86_64", "x86_64"),
        ("/usr/libexec/qemu-kvm", "s390x"),  # as the host
        (None, "s390x"),
    ],
)
def test_the_name_of_a_qemu_tells_what_it_emulates(
    monkeypatch: pytest.MonkeyPatch, binary: str | None, architecture: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="s390x"))
    assert command_line.architecture(binary) == architecture


def test_no_machine_is_usual_for_what_is_not_known() -> None:
    assert machine_type.usual("riscv64") == "virt"
    with pytest.raises(Refusal, match="machine: there is no usual machine type for m68k"):
        machine_type.usual("m68k")


@pytest.fixture
def describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Describe:
    """Write a description, as packages have it, and the firmware that it tells of."""
    directories = [str(tmp_path / "etc"), str(tmp_path / "share")]
    for directory in directories:
        os.mkdir(directory)
    monkeypatch.setattr(firmware, "DESCRIBED", directories)
    monkeypatch.setattr(firmware, "_KNOWN", ())

    def write(
        name: str,
        where: str = "share",
        architecture: str = "aarch64",
        machines: str = "virt-*",
        kind: str = "raw",
        there: bool = True,
        **more: Any,
    ) -> str:
        code = tmp_path / f"{where}-{name}.fd"
        if there:
            code.touch()
        told = {
            "interface-types": ["uefi"],
            "features": [],
            "targets": [{"architecture": architecture, "machines": [machines]}],
            "mapping": {
                "device": "flash",
                "executable": {"filename": str(code), "format": kind},
                "nvram-template": {"filename": f"{code}.vars", "format": kind},
            },
            **more,
        }
        (tmp_path / where / f"{name}.json").write_text(json.dumps(told))
        return str(code)

    return write


def find(architecture: str, machine: str) -> firmware.Firmware | None:
    return firmware.find(
        {
            "firmware": "uefi",
            "uefi_code": None,
            "uefi_vars": None,
            "machine": machine,
            "binary": f"qemu-system-{architecture}",
        }
    )


@pytest.mark.parametrize("machine", ["virt", "virt-7.2", "virt-rhel9.4.0"])
def test_the_first_plain_one_is_taken(describe: Describe, machine: str) -> None:
    describe("10-enrolled", features=["secure-boot", "enrolled-keys"])
    describe("20-qcow2", kind="qcow2")
    describe("30-other", architecture="arm")
    describe("31-micro", machines="microvm")
    describe("40-bios", **{"interface-types": ["bios"]})
    describe("45-gone", there=False)
    describe("46-stateless", mapping={"device": "memory", "filename": "/x"})
    plain = describe("50-plain")
    describe("60-later")
    assert find("aarch64", machine) == firmware.Firmware(plain, f"{plain}.vars")


def test_the_hosts_own_description_hides_that_of_the_package(describe: Describe, tmp_path: Path) -> None:
    describe("50-plain")
    own = describe("50-plain", where="etc")
    found = find("aarch64", "virt")
    assert found is not None and found.code == own
    for text in ("", "[]", '{"mapping": 1}', "{"):  # masked, or damaged
        (tmp_path / "etc" / "50-plain.json").write_text(text)
        with pytest.raises(Refusal, match="none for virt of aarch64"):
            find("aarch64", "virt")


@pytest.mark.parametrize(
    ("architecture", "machine", "machines"),
    [("x86_64", "q35", "pc-q35-*"), ("x86_64", "pc", "pc-i440fx-*"), ("x86_64", "pc-q35-10.0", "pc-q35-*")],
)
def test_an_alias_is_the_machine_that_it_stands_for(
    describe: Describe, architecture: str, machine: str, machines: str
) -> None:
    code = describe("50-plain", architecture=architecture, machines=machines)
    found = find(architecture, machine)
    assert found is not None and found.code == code
    with pytest.raises(Refusal, match="none for microvm of x86_64"):
        find("x86_64", "microvm")
