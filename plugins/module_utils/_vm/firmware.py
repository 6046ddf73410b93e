# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""UEFI firmware: where the host has it, and the variables of a VM's own, as a kind."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import json
import os
from typing import IO, TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.option import Option, Want
from .._host import command_line
from .._host.ownership import OWNER, owner
from .._provision.host_file import HostFile, make_step
from .machine_type import is_pc

if TYPE_CHECKING:
    from .._core.host import Host
    from .._core.plan import Draft
    from .._core.step import Step
    from .._qmp.deadline import Deadline


class Firmware(NamedTuple):
    """The code, which all share, and the variables that a new VM begins with."""

    code: str
    variables: str


# Where distributions have that of PCs.
_KNOWN = (
    Firmware("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    Firmware("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)
DESCRIBED = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
"""Where packages describe theirs (docs/interop/firmware.json of QEMU). A file in the first hides its namesake in the second."""
_BLOCK = 1 << 16
_NOT_PLAIN = {"secure-boot", "enrolled-keys", "requires-smm"}


def find(params: Dict[str, Any]) -> Firmware | None:
    """Return the firmware that is to be used, None: the BIOS. Raise Refusal where there is none, or none with variables."""
    if params["firmware"] != "uefi":
        return None
    code, machine, architecture = params["uefi_code"], params["machine"], command_line.architecture(params["binary"])
    if code:
        if os.path.exists(code) and params["uefi_vars"]:
            return Firmware(code, params["uefi_vars"])
        raise Refusal(
            f"firmware is uefi, and there is no {code} with its variables on this host: set uefi_code and uefi_vars"
        )
    known = _KNOWN if is_pc(machine, architecture) else ()
    for firmware in itertools.chain(known, _described(machine, architecture)):
        if os.path.exists(firmware.code):
            return firmware
    raise Refusal(
        f"firmware is uefi, and there is none for {machine} of {architecture} on this host: install the package (ovmf, "
        "edk2-ovmf, qemu-efi-aarch64, edk2-aarch64), or set uefi_code and uefi_vars"
    )


def _described(machine: str, architecture: str) -> Iterator[Firmware]:
    """Yield what the host's descriptions have for a machine, in their order: without Secure Boot, and as plain files."""
    paths: Dict[str, str] = {}
    for directory in DESCRIBED:
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                paths.setdefault(name, f"{directory}/{name}")
    for name in sorted(name for name in paths if name.endswith(".json")):
        try:
            with open(paths[name], encoding="utf-8") as file:
                told = json.load(file)
            mapping = told["mapping"]
            code, variables = mapping.get("executable", {}), mapping.get("nvram-template", {})
            plain = code.get("format") == variables.get("format") == "raw" and not _NOT_PLAIN & set(told["features"])
            if plain and "uefi" in told["interface-types"] and _is_for(told["targets"], machine, architecture):
                yield Firmware(code["filename"], variables["filename"])
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            continue  # an empty one hides its namesake; what is damaged is nobody's firmware


def _is_for(targets: Any, machine: str, architecture: str) -> bool:
    """Tell whether a machine is among those of a description, which names them with their versions."""
    names = (machine, f"{machine}-", f"pc-{machine}-", "pc-i440fx-" if machine == "pc" else machine)
    return any(
        target["architecture"] == architecture
        and any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in target["machines"])
        for target in targets
    )


class FirmwareVariables(HostFile):
    """A copy of the variables that a new VM begins with. What its firmware has written there since is its own."""

    name = "firmware_variables"
    options = {"path": Option("path"), "template": Option("path"), **OWNER}

    def create(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that copies them."""
        path, template = want["path"], want["template"]

        def fill(file: int, deadline: Deadline) -> None:
            try:
                with safe_open.regular(template, links=True) as source, open(file, "wb", closefd=False) as target:
                    _copy(source, target)
            except OSError as exc:
                raise OperationFailed(f"uefi_vars: {template} can't be copied to {path}: {exc.strerror}") from exc

        return [make_step(path, fill, owner(want), [["cp", template, path]], draft=draft)]


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy with holes where there are zeros: of 64 MiB for aarch64 nearly all are."""
    for block in iter(lambda: source.read(_BLOCK), b""):
        if block.count(0) == len(block):
            target.seek(len(block), os.SEEK_CUR)
        else:
            target.write(block)
    target.truncate()


FIRMWARE_VARIABLES = FirmwareVariables()
