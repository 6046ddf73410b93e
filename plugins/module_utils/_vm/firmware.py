# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""UEFI firmware: where the host has it, and the variables of a VM's own, as a kind."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.option import Option, Want
from .._host.ownership import OWNER, owner
from .._provision.host_file import HostFile, make_step

if TYPE_CHECKING:
    from .._core.host import Host
    from .._core.plan import Draft
    from .._core.step import Step
    from .._qmp.deadline import Deadline


class Firmware(NamedTuple):
    """The code, which all share, and the variables that a new VM begins with."""

    code: str
    variables: str


# Where distributions have it.
_KNOWN = (
    Firmware("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    Firmware("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)


def find(params: Dict[str, Any]) -> Firmware | None:
    """Return the firmware that is to be used, None: the BIOS. Raise Refusal where there is none, or none with variables."""
    if params["firmware"] != "uefi":
        return None
    code = params["uefi_code"]
    known = (Firmware(code, params["uefi_vars"] or ""),) if code else _KNOWN
    for firmware in known:
        if os.path.exists(firmware.code) and firmware.variables:
            return firmware
    raise Refusal(
        f"firmware is uefi, and there is no {' or '.join(firmware.code for firmware in known)} with its variables on this host: "
        "install the package (ovmf, edk2-ovmf), or set uefi_code and uefi_vars"
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
                    shutil.copyfileobj(source, target)
            except OSError as exc:
                raise OperationFailed(f"uefi_vars: {template} can't be copied to {path}: {exc.strerror}") from exc

        return [make_step(path, fill, owner(want), [["cp", template, path]], draft=draft)]


FIRMWARE_VARIABLES = FirmwareVariables()
