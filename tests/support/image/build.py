# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a disk image like those that Debian publishes for clouds.

    PYTHONPATH=tests python -m support.image.build KERNEL OUT <TAR

TAR is a Debian tree with systemd, cloud-init, qemu-guest-agent and grub-pc-bin, as mmdebstrap writes it (`make_image` in
scripts/setup); KERNEL is where linux-image-*-cloud-amd64 and busybox-static were unpacked; OUT gets `cloud.qcow2`.
Run by root, or under fakeroot: the files' owners count. Nothing is mounted.

The disk is one for a PC's BIOS: an MBR with GRUB's first stage, GRUB's core in the gap behind it, and one partition of
ext4 that cloud-init grows with the disk. Its user space is Debian's own. Unlike in Debian's images an initramfs of ours
loads all the modules that a VM needs, and the root file system has none: an emulated guest spends most of its start on
finding and loading modules otherwise.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from support.guest.build import WANTED, kernel_of, write_initrd

SECTOR = 512
MIB = 1 << 20
PARTITION = MIB  # where it begins, as all partitioning tools have it
SIZE = 640 * MIB  # of the partition; the tree has about half of that
LINUX = 0x83  # the partition's type

#: Of cloud-init's modules those that a seed here may want: importing one takes an emulated guest a while.
CLOUD_CONFIG = """\
datasource_list: [NoCloud, None]
users: []
cloud_init_modules:
  [bootcmd, write-files, growpart, resizefs, mounts, set_hostname, update_hostname, update_etc_hosts, users-groups]
cloud_config_modules: [set-passwords, timezone, runcmd]
cloud_final_modules: [write-files-deferred, scripts-per-boot, scripts-per-instance, scripts-user, final-message]
"""

FILES = {
    "etc/fstab": "LABEL=cloud / ext4 errors=remount-ro 0 1\n",
    "etc/cloud/cloud.cfg.d/90_image.cfg": CLOUD_CONFIG,
    # a busy machine's guest takes longer than 90 s to find its own console, and would never ask to log in
    "etc/systemd/system.conf.d/90_image.conf": "[Manager]\nDefaultDeviceTimeoutSec=30min\nDefaultTimeoutStartSec=30min\n",
    "etc/machine-id": "",  # systemd makes one
    "etc/systemd/system/e2scrub_reap.service": "",  # masked: Perl, for snapshots of LVM, takes an emulated guest 5 s
    "boot/grub/grub.cfg": """\
linux /boot/vmlinuz root=LABEL=cloud console=ttyS0 quiet loglevel=3 tsc=reliable no_timer_check
initrd /boot/initrd.gz
boot
""",
}
#: mmdebstrap takes these from the machine it runs on, the last with a proxy that one may have.
OF_THE_HOST = ("etc/hostname", "etc/resolv.conf", "etc/apt/apt.conf.d/99mmdebstrap")


def fill(tree: Path, kernel: Path) -> None:
    """What the packages don't bring."""
    for name in OF_THE_HOST:
        (tree / name).unlink(missing_ok=True)
    for name, content in FILES.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(content)
    shutil.copyfile(kernel_of(kernel), tree / "boot/vmlinuz")
    write_initrd(kernel, Path(__file__).with_name("init"), [*WANTED, "isofs", "sr_mod"], tree / "boot/initrd.gz")


def boot_record(first_stage: bytes) -> bytes:
    """The disk's first sector: code of at most 440 bytes, the disk's signature, four partitions, the end mark.

    GRUB's first stage loads what is in the second sector unless told otherwise.
    """
    nowhere = b"\xfe\xff\xff"  # in cylinders, heads and sectors: too far for them, count in sectors
    entry = struct.pack("<B3sB3sII", 0x80, nowhere, LINUX, nowhere, PARTITION // SECTOR, SIZE // SECTOR)
    return first_stage[:440] + b"bed\0\0\0" + entry + bytes(3 * len(entry)) + b"\x55\xaa"


def write_disk(tree: Path, disk: Path) -> None:
    """The raw disk. GRUB's core was made within the tree, with its own tools."""
    core = (tree / "boot/grub/core.img").read_bytes()
    if SECTOR + len(core) > PARTITION:
        sys.exit(f"GRUB's core of {len(core)} bytes does not fit before the partition")
    with disk.open("wb") as file:
        file.write(boot_record((tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()))
        file.write(core)
        file.truncate(PARTITION + SIZE)
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "cloud", "-E", f"offset={PARTITION}", "-d"]
    subprocess.run([*make, str(tree), str(disk), f"{SIZE // 1024}k"], check=True)


def main(kernel: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as work:
        tree, disk, image = Path(work, "tree"), Path(work, "disk"), Path(work, "image")
        tree.mkdir()
        subprocess.run(["tar", "-x", "-p", "--numeric-owner", "--exclude=./dev/*", "-C", str(tree)], check=True)
        fill(tree, kernel)
        write_disk(tree, disk)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(image)], check=True)
        image.chmod(0o644)
        image.rename(out / "cloud.qcow2")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
