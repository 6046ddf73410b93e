# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a VM stands on, as items that the engine converges: directories, taps, images, seed and firmware variables."""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterator, List, Tuple

from .._core import safe_open
from .._core.errors import Refusal
from .._engine.comparison import Item
from .._host import directory, part_file
from .._provision.image import IMAGE
from .._provision.seed import SEED
from .arguments import has_disk, has_seed, instance_id
from .directory import DIRECTORY
from .firmware import FIRMWARE_VARIABLES, Firmware
from .options import Place, is_url, known_checksum
from .record import Record
from .tap import taps


def items(
    params: Dict[str, Any], place: Place, firmware: Firmware | None, record: Record | None, runs: bool, check_mode: bool
) -> List[Item]:
    """Return the items in the order in which they are made. ``runs``: QEMU has the disk open, and grows it itself.

    Raise Refusal for an image that can't be what is meant.
    """
    found = [*directories(place), *taps(params["taps"], place.user, place)]
    if not params["incoming"]:
        found += images(params, place, record, runs, check_mode)
    else:
        found += copied_images(params, place, record, check_mode)
    if has_seed(params):
        found.append(Item(SEED, _seed(params, place), True, "user_data"))
    if firmware:
        want = {"path": place.uefi_vars, "template": firmware.variables, **_owner(place)}
        found.append(Item(FIRMWARE_VARIABLES, want, True, "firmware"))
    for item in found:
        item.kind.check(item.want)
    return found


def directories(place: Place) -> Iterator[Item]:
    """Yield the directories: all may pass the first, and QEMU's user, to whom only the last belongs, the others."""
    if not os.path.isdir(place.parent):
        access = directory.of_user(None, 0o711)
        yield Item(DIRECTORY, {"path": place.parent, "access": access}, True)
    passed = directory.passed_by(place.user)
    yield Item(DIRECTORY, {"path": place.directory, "access": passed}, True)
    yield Item(DIRECTORY, {"path": place.run, "access": passed, "whole": True}, True)
    if place.user:
        access = directory.of_user(place.user, 0o700)
        yield Item(DIRECTORY, {"path": place.sockets, "access": access, "whole": True}, True)


def images(params: Dict[str, Any], place: Place, record: Record | None, runs: bool, check_mode: bool) -> Iterator[Item]:
    """Yield the images: its own disk, and those of its disks that have a size. Raise Refusal for one that is missing."""
    if has_disk(params):
        want = {"path": params["disk"], "format": "qcow2", "options": params["disk_options"], "resize": not runs}
        want.update({"size": params["disk_size"]} if params["disk_size"] else {})
        if params["image"] and not os.path.exists(params["disk"]):
            _check_known(params["disk"], record)
            want.update(backing_file=base(params, check_mode), backing_format=params["image_format"])
        yield _image(want, place, record, "disk")
    for number, disk in enumerate(params["disks"]):
        if disk.get("size") and disk.get("filename") and disk.get("state") != "absent":
            want = {"path": str(disk["filename"]), "format": disk.get("format") or "raw", "size": str(disk["size"])}
            yield _image({**want, "options": {}, "resize": False}, place, record, f"disks[{number}]")


def copied_images(params: Dict[str, Any], place: Place, record: Record | None, check_mode: bool) -> Iterator[Item]:
    """Yield the new images of disks that are copied to here. Raise Refusal for one that is there, and where there is no room."""
    known = record.copied if record is not None and record.incoming else []
    needed: Dict[str, int] = {}
    for ident, disk in params["copied_disks"].items():
        path, kind = copied_image(params, ident)
        if os.path.lexists(path) and path not in known:
            raise Refusal(
                f"copied_disks: {path}, to which disk {ident} would be copied, is there already: remove it if nobody needs it, or "
                "name another path here"
            )
        want = {"path": path, "format": kind, "size": str(disk["size"]), "resize": False, "shrink": False}
        keeps = is_kept(params, disk)
        if keeps:
            _check_kept(params, ident, disk["files"])
            want.update(backing_file=base(params, check_mode), backing_format=params["image_format"])
        needed[path] = 0 if os.path.lexists(path) else int(disk["top_used" if keeps else "used"])
        options = params["disk_options"] if ident == "disk" else {}
        yield Item(IMAGE, {**want, "options": options, "qemu_img": "qemu-img", **_owner(place)}, True, "copied_disks")
    _check_room(needed)


def is_kept(params: Dict[str, Any], disk: Dict[str, Any]) -> bool:
    """Tell whether a disk that comes along is to stand on another image here, too."""
    return params["copied_chain"] == "keep" and len(disk["files"]) > 1


def _check_kept(params: Dict[str, Any], ident: str, files: List[str]) -> None:
    """Raise Refusal for a disk whose chain can't be made here. ``files``: the images at the source, from the top one down."""
    top, below, *more = files
    if ident != "disk" or not has_disk(params) or not params["image"]:
        raise Refusal(
            f"copied_chain: disk {ident} has backing file {below} at the source, and no option names one for here: only the disk "
            "that is made from image can be kept so. With copied_chain=flatten it becomes one image"
        )
    if more:
        raise Refusal(
            f"copied_chain: disk {ident} has {len(files)} images at the source ({', '.join(files)}), and two can be kept: commit "
            f"what is in {top} first (qemu_disk_snapshot, state: absent). With copied_chain=flatten it becomes one image"
        )


def copied_image(params: Dict[str, Any], ident: str) -> Tuple[str, str]:
    """Return path and format of the image here of a disk that comes along. Raise Refusal for one that these options don't have."""
    if ident == "disk" and has_disk(params):
        return str(params["disk"]), "qcow2"
    for disk in params["disks"]:
        if disk.get("id") == ident and disk.get("filename") and disk.get("state") != "absent":
            return str(disk["filename"]), disk.get("format") or "raw"
    raise Refusal(
        f"copied_disks: the source has a disk {ident}, and neither disk nor disks says where it is to be here"
    )


def _check_room(needed: Dict[str, int]) -> None:
    """Raise Refusal where a file system has less room than is copied to it. ``needed``: bytes by path."""
    of_device: Dict[int, List[str]] = {}
    for path in needed:
        directory = os.path.dirname(path)
        while not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        of_device.setdefault(os.stat(directory).st_dev, [directory]).append(path)
    for directory, *paths in of_device.values():
        free, wanted = part_file.room(directory), sum(needed[path] for path in paths)
        if wanted > free:
            raise Refusal(
                f"copied_disks: {wanted / (1 << 30):.1f} GiB are to be copied to {', '.join(paths)}, and {directory} has room for "
                f"{free / (1 << 30):.1f} GiB"
            )


def image_to_come(params: Dict[str, Any]) -> str | None:
    """Return the image that has to be fetched for a new disk; None where there is nothing to fetch."""
    made = not params["incoming"] or any(is_kept(params, disk) for disk in params["copied_disks"].values())
    fetched = is_url(params["image"]) and made and not os.path.exists(params["disk"])
    return base_path(params) if fetched and not os.path.exists(base_path(params)) else None


def image_paths(params: Dict[str, Any]) -> List[str]:
    """Return the images that are made for the VM, whether they are there or not."""
    own = [params["disk"]] if has_disk(params) else []
    return own + [
        str(disk["filename"])
        for disk in params["disks"]
        if disk.get("size") and disk.get("filename") and disk.get("state") != "absent"
    ]


def _image(want: Dict[str, Any], place: Place, record: Record | None, where: str) -> Item:
    _check_known(want["path"], record)
    return Item(IMAGE, {**want, "shrink": False, "qemu_img": "qemu-img", **_owner(place)}, True, where)


def _check_known(path: str, record: Record | None) -> None:
    """Raise Refusal for an image that was there and is missing: a blank one in its place would hide that."""
    if record is not None and path in record.images and not os.path.lexists(path):
        raise Refusal(
            f"{path} was made for this virtual machine, and is not there: is its storage mounted? For a new one in its place "
            "first run this with state=absent, which forgets it"
        )


def _owner(place: Place) -> Dict[str, str]:
    return {"mode": "0600", **({"owner": place.user} if place.user else {})}


def base(params: Dict[str, Any], check_mode: bool) -> str:
    """Return the image that a new disk stands on. Raise Refusal for one that is not there, or is another than was meant."""
    path = base_path(params)
    checksum = known_checksum(params)
    if not os.path.exists(path):
        if not is_url(params["image"]):
            raise Refusal(f"image: there is no {path}")
        if check_mode:
            return path  # it would be fetched
        raise Refusal(f"image: {params['image']} has to be fetched to {path} first", image_needed=path)
    if checksum:
        kind, _colon, wanted = checksum.partition(":")
        found = _digest(path, kind)
        if found != wanted.lower():
            raise Refusal(f"image: {path} has the checksum {found}, and not {checksum}")
    return path


def base_path(params: Dict[str, Any]) -> str:
    """Return where the image is: that of a URL is kept for all VMs that name the same URL and checksum."""
    image = str(params["image"])
    if not is_url(image):
        return image
    import hashlib
    from urllib.parse import urlsplit

    known = hashlib.sha256(f"{image} {params['image_checksum'] or ''}".encode()).hexdigest()[:12]
    return f"{params['image_directory']}/{known}-{os.path.basename(urlsplit(image).path)}"


def _digest(path: str, kind: str) -> str:
    import hashlib

    try:
        digest = hashlib.new(kind)
        with safe_open.regular(path, links=True) as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except ValueError:
        raise Refusal(
            f"image_checksum: {kind} is not a checksum that this host's Python knows: write it as sha256:HEX"
        ) from None
    except OSError as exc:
        raise Refusal(f"image: {path} can't be read: {exc.strerror}") from exc
    return digest.hexdigest()


def _seed(params: Dict[str, Any], place: Place) -> Dict[str, Any]:
    user, network = params["user_data"], params["network_config"]
    meta = {"instance-id": instance_id(params), "local-hostname": params["name"], **params["meta_data"]}
    head = "#cloud-config\n" if isinstance(user, dict) else ""
    want = {"path": place.seed, "user_data": head + _yaml(user or ""), "meta_data": _yaml(meta), **_owner(place)}
    return {**want, **({"network_config": _yaml(network)} if network else {})}


def _yaml(value: Any) -> str:
    """Return what cloud-init reads: a text as it is, all else as JSON, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value, indent=4, sort_keys=True, default=str)
