# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the test guest's initramfs from an unpacked Debian kernel package and a static busybox.

    python build.py ROOT OUT

ROOT is where a linux-image-* of any architecture and its busybox-static were unpacked; OUT gets `vmlinuz` and `initrd.gz`, and in
`vmlinux` the same kernel as it starts soonest. A PC's is not compressed there, which costs an emulated guest a third of a second;
UEFI takes only the other.
The archive is written here, in cpio's "newc" form, so that neither root nor cpio is needed.
"""

from __future__ import annotations

import gzip
import re
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

#: What a running VM's hot-plugged devices need. What these depend on is found in the modules themselves.
WANTED = """
    virtio_pci virtio_mmio virtio_blk virtio_net virtio_console virtio_balloon virtio_mem virtio_scsi sd_mod
    button evdev nfit nd_btt nd_pmem dax_pmem kmem pvpanic_pci pvpanic_mmio virtio_rng qemu_fw_cfg
    vmw_vsock_virtio_transport isofs sr_mod
""".split()


def depends(module: Path) -> list[str]:
    """The names a module's own `depends=` record gives (what depmod would have read)."""
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name for name in found.group(1).decode().split(",") if name] if found else []


def load_order(modules: dict[str, Path], wanted: list[str]) -> list[str]:
    """The wanted ones and all they depend on, each after what it needs. A module built into the kernel has no file."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in modules:
            return
        for needed in depends(modules[name]):
            add(needed.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name)
    return order


def newc(entries: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """A cpio archive of (name, mode, content)."""
    for inode, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        yield header + b"\0" * (-len(header) % 4)
        yield content + b"\0" * (-len(content) % 4)


def kernel_of(root: Path) -> Path:
    """The kernel that was unpacked there."""
    kernels = sorted(root.glob("boot/vmlinu[xz]-*"))  # that of ppc64 is not compressed
    if len(kernels) != 1:
        sys.exit(f"{root}: expected one kernel, found {len(kernels)}")
    return kernels[0]


def unpacked(kernel: Path) -> bytes | None:
    """The ELF file in a PC's kernel that is compressed by LZ4; None for any other kernel. The layout is Linux's x86/boot.rst."""
    image = kernel.read_bytes()
    if image[0x202:0x206] != b"HdrS":
        return None
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = (image[0x1F1] + 1) * 512 + offset
    payload = image[begin : begin + length - 4]  # its size unpacked comes last
    if not payload.startswith(b"\x02\x21\x4c\x18"):
        return None
    return subprocess.run(["lz4", "-dc"], input=payload, stdout=subprocess.PIPE, check=True).stdout


def write_initrd(root: Path, init: Path, wanted: list[str], out: Path) -> None:
    """An initramfs with a busybox, the modules, and their names in /lib/modules/order for the init to load."""
    modules = {path.stem.replace("-", "_"): path for path in root.glob("lib/modules/*/kernel/**/*.ko")}
    order = load_order(modules, wanted)
    if missing := {"virtio_pci", "virtio_blk", "virtio_net"} - set(order):
        sys.exit(f"{root}: the kernel package lacks {', '.join(sorted(missing))}")

    directory, program, plain = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    entries = [(name, directory, b"") for name in ("bin", "dev", "lib", "lib/modules")]
    entries += [
        ("init", program, init.read_bytes()),
        ("bin/busybox", program, (root / "bin/busybox").read_bytes()),
        ("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
        ("lib/modules/order", plain, "".join(f"{name}\n" for name in order).encode()),
    ]
    entries += [(f"lib/modules/{name}", plain, modules[name].read_bytes()) for name in order]

    with gzip.open(out, "wb", compresslevel=6) as archive:
        archive.writelines(newc(entries))


def main(root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kernel_of(root), out / "vmlinuz")
    (out / "vmlinux").write_bytes(unpacked(out / "vmlinuz") or (out / "vmlinuz").read_bytes())
    write_initrd(root, Path(__file__).with_name("init"), WANTED, out / "initrd.gz")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
