# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What QEMU's English error texts mean, where the error's class does not tell: nearly all have one class, GenericError.

Look here before adding one: what a query can tell before the command is sent is better told by a kind itself.
"5.2 to 10.0" stands for the versions 5.2, 7.2 and 10.0, in which the text was seen.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from .._qmp.errors import CommandError, DeviceNotFound


def is_busy(error: CommandError) -> bool:
    """Tell whether something is in use. It is so for a moment after its last user has left, too."""
    # 5.2 to 10.0: "Chardev 'c0' is busy", "object 'o0' is in use, can not be deleted", "Node n0 is in use"
    return "in use" in error.desc or "busy" in error.desc


def is_taken(error: CommandError) -> bool:
    """Tell whether a new device's id, place or backend is taken. It is so for a moment after another device has left, too."""
    # 5.2: "Conflicts with use by d0 as 'root', which ..."; 7.2 and 10.0: "Permission conflict on node 'n0': ..."
    # 5.2 to 10.0: "Duplicate device ID 'd0'", "Drive 'n0' is already in use by another device", "lun already used by 'd0'"
    return any(text in error.desc for text in ("uplicate", "in use", "already used", "onflict"))


def is_already_unplugging(error: CommandError) -> bool:
    """Tell whether the guest has been asked for the device before, and goes on with that."""
    # 5.2 to 10.0: "Device d0 is already in the process of unplug"
    # 7.2 and 10.0: "Hot-unplug failed: guest is busy (power indicator blinking)", of a slot in the middle of something
    return any(text in error.desc for text in ("already in the process of unplug", "guest is busy"))


def removal_state(error: CommandError) -> str:
    """Return what the refusal of a ``device_del`` means: "done" (gone meanwhile), "pending" (asked before), or "" (a failure)."""
    if isinstance(error, DeviceNotFound):
        return "done"
    return "pending" if is_already_unplugging(error) else ""


def export_state(error: CommandError) -> str:
    """Return what a ``block-export-del``'s refusal means: "done" (gone meanwhile), "pending" (clients, or asked before), or ""."""
    # 5.2 to 10.0: "Export 'e' is not found", "export 'e' still in use", "Export 'e' is already shutting down"
    if "is not found" in error.desc:
        return "done"
    return "pending" if any(text in error.desc for text in ("still in use", "already shutting down")) else ""


def is_nbd_server_running(error: CommandError) -> bool | None:
    """Tell whether the NBD server runs, where a command was refused because it does, or does not; None: for another reason."""
    # 5.2 to 10.0: "NBD server already running", "NBD server not running"
    return True if "server already running" in error.desc else False if "server not running" in error.desc else None


def is_netdev_without_nic(error: CommandError) -> bool | None:
    """Tell what ``query-rx-filter`` found under a name that is not a NIC's: another net client, or nothing; None: neither."""
    # 5.2 to 10.0: "net client(n0) isn't a NIC", "invalid net client name: n0"
    return True if "isn't a NIC" in error.desc else False if "invalid net client" in error.desc else None


def is_unknown_property(error: CommandError) -> bool:
    """Tell whether an object has no property of that name."""
    # 5.2 to 10.0: "Property 'iothread.nosuch' not found"; 5.2: "Property '.nosuch' not found"
    return "not found" in error.desc


def is_not_connected(error: CommandError) -> bool:
    """Tell whether a client found nobody at its address."""
    # 5.2 to 10.0: "Failed to connect to '/tmp/s': No such file or directory", "Failed to connect socket ..."
    return "onnect" in error.desc


def write_lock_hint(error: CommandError) -> str:
    """Return what to do where another process has the image open for writing."""
    # 5.2 to 10.0: "Failed to get \"write\" lock", also below a text about the device or the node
    return (
        "another process uses this image, or another block node of this virtual machine does: stop that, or open the image "
        "read-only in both"
        if '"write" lock' in error.desc
        else ""
    )


def resize_hint(error: CommandError) -> str:
    """Return what to do where something that uses a disk does not let it grow."""
    # 7.2: "... permissions 'resize' are both required by ... and unshared by ..."; 5.2: "... which does not allow 'resize' on n0"
    return (
        "something else uses the disk and does not let it grow, such as an NBD export: remove that first (qemu_export)"
        if "'resize'" in error.desc
        else ""
    )


def reopen_hint(error: CommandError) -> str:
    """Return what to do where ``blockdev-reopen`` would drop an option that the node was made with."""
    # 7.2 and 10.0: "Option 'discard' cannot be reset to its default value"
    return "name what it was made with again, or set recreate=true" if "cannot be reset" in error.desc else ""


def drive_hint(error: CommandError) -> str:
    """Return what to do where a device that is plugged in can't be given another disk."""
    # 5.2: "Attempt to set property 'drive' on device 'd0' (type 'scsi-hd') after it was realized"
    if "after it was realized" in error.desc:
        return (
            "this QEMU can't give a device another disk while it is plugged in; 6.2 and later can: start the virtual machine anew "
            "from the image that was kept"
        )
    return ""


def cpu_unplug_hint(error: CommandError) -> str:
    """Return why a guest can't be asked for a CPU."""
    # 5.2 to 10.0: "acpi: device unplug request for not supported device type: ..."
    if "not supported device type" in error.desc:
        return "the guest has not made itself ready for CPU hot-plug: it is still booting, or runs no system that can"
    return ""


def serial_bus_hint(error: CommandError) -> str:
    """Return what a port of virtio-serial lacks."""
    # 5.2 to 10.0: "No 'virtio-serial-bus' bus found for device 'virtserialport'"
    if "'virtio-serial-bus'" in error.desc:
        return "a port needs a controller: plug one with qemu_device, driver virtio-serial-pci"
    return ""
