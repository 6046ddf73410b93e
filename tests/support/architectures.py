# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processors that the bed has a QEMU and a guest for, and how their machines differ."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_BED = Path(__file__).resolve().parents[2] / ".bed"
HOST = "10.0" if (_BED / "bin" / "qemu-10.0-s390x").exists() else "7.2"  # Debian 13's, Debian 12's
"""The QEMU of this host."""
AARCH64, PPC64, S390X = (f"{HOST}-{name}" for name in ("aarch64", "ppc64", "s390x"))
OTHERS = (AARCH64, PPC64, S390X)
"""The QEMUs for other processors than x86."""


class Architecture(NamedTuple):
    """How a VM of it is made, and which guest it has."""

    machine: str
    cmdline: str  # of its kernel
    guest: str  # where in the bed its kernel and initramfs are
    memory: str = "256"  # all of -m
    arguments: tuple[str, ...] = ()


_QUIET = "quiet loglevel=3 panic=-1"
# ciphers that test themselves, tracing, certificates: no test needs them, and an emulated processor takes a third of a second
_QUICK = "cryptomgr.notests audit=0 lsm=capability noreplace-smp initcall_blacklist=" + ",".join(
    ("init_kprobe_trace", "load_system_certificate_list", "crypto_kdf108_init")
)
_MODULES = "512,slots=2,maxmem=2G"
_ALL = {
    "x86_64": Architecture("q35", f"console=ttyS0 {_QUIET} {_QUICK} tsc=reliable no_timer_check", "guest"),
    # without firmware there is no ACPI: no power button, and no memory that comes and goes
    "aarch64": Architecture(
        *("virt", f"console=ttyAMA0 {_QUIET}", "arch/aarch64", _MODULES),
        arguments=("-cpu", "cortex-a57", "-bios", "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"),
    ),
    "ppc64": Architecture("pseries", f"console=hvc0 {_QUIET}", "arch/ppc64", _MODULES, arguments=("-cpu", "POWER9")),
    "s390x": Architecture("s390-ccw-virtio", f"console=ttysclp0 {_QUIET}", "arch/s390x"),
}


def architecture(version: str) -> Architecture:
    """That of a QEMU of the bed (`7.2-s390x`); one without a suffix is for x86_64."""
    return _ALL[version.partition("-")[2] or "x86_64"]
