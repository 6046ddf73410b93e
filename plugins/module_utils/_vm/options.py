# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A whole VM as a task says it: its options, what is wrong with them whatever the host is like, and where its files are."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import pwd
import re
from typing import Any, Dict

from .._core.errors import Refusal
from .._core.option import Option
from .._host import command_line
from .._kinds.object import OBJECT
from .._kinds.sections import SECTIONS
from .._provision.host_file import UNUSED
from .._qmp.values import human_size
from . import machine_type

_ROOT = "/var/lib/vmm-qemu"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_CHECKSUM = re.compile(r"[a-z0-9_]+:[0-9a-fA-F]+\Z")
_LISTED_CHECKSUM = re.compile(r"[a-z0-9_]+:[a-z0-9]+://")
_URL = re.compile(r"[a-z0-9]+://")
# What stays of the time for an image, beside the options for the process.
_IMAGES_SECONDS = 600
MEMORY = "memory_modules"
LISTS = {MEMORY if name == "memory" else name: name for name in SECTIONS}
"""The document's lists: under the names that they have here, those there."""

OPTIONS = {
    "name": Option("str", required=True),
    "state": Option("str", choices=["running", "stopped", "absent"], default="running"),
    "directory": Option("path"),
    "user": Option("str", default="vmm-qemu"),
    "binary": Option("path"),
    "service": Option("str", choices=["auto", "systemd", "daemon"], default="auto"),
    "autostart": Option("bool", default=False),
    "restart_allowed": Option("bool", default=False),
    "start_timeout": Option("int", default=60),
    "plug_timeout": Option("int", default=60),
    "shutdown_timeout": Option("int", default=60),
    "on_host_shutdown": Option("str", choices=["shutdown", "save"], default="shutdown"),
    "save_timeout": Option("int", default=300),
    "power": Option("str", choices=["running", "paused"], default="running"),
    "remove_data": Option("bool", default=False),
    "machine": Option("str"),
    "machine_options": Option("dict", default={}),
    "accel": Option("str", default="kvm:tcg"),
    "cpu": Option("str", default="max"),
    "vcpus": Option("int", default=1),
    "vcpus_max": Option("int", default=0),
    "memory": Option("str", default="1G"),
    "memory_max": Option("str"),
    "memory_slots": Option("int", default=8),
    "root_ports": Option("int", default=8),
    "firmware": Option("str", choices=["auto", "bios", "uefi"], default="auto"),
    "uefi_code": Option("path"),
    "uefi_vars": Option("path"),
    "kernel": Option("path"),
    "initrd": Option("path"),
    "append": Option("str"),
    "monitor_mode": Option("str", choices=["control", "readline"], default="control"),
    "vnc": Option("str"),
    "arguments": Option("dict", default={}),
    "incoming": Option("bool", default=False),
    "copied_disks": Option("dict", default={}),
    "copied_chain": Option("str", choices=["flatten", "keep"], default="flatten"),
    "disk": Option("path"),
    "image": Option("str"),
    "image_checksum": Option("str"),
    "image_format": Option("str", default="qcow2"),
    "image_directory": Option("path"),
    "disk_size": Option("str"),
    "disk_options": Option("dict", default={}),
    "user_data": Option("raw", hidden_whole=True),
    "meta_data": Option("dict", default={}),
    "network_config": Option("raw", hidden_whole=True),
    "taps": Option(
        "list", elements="dict", default=[], options={"name": Option("str", required=True), "bridge": Option("str")}
    ),
    **{name: Option("list", elements="dict", default=[]) for name in LISTS},
    "balloon": Option("str"),
    "purge": Option("bool", default=False),
    "recreate": Option("bool", default=False),
    "upgrade": Option("str", choices=["auto", "cpr", "migrate"]),
    "upgradable": Option("bool", default=False),
    "timeout": Option("float"),
    "variables_prefix": Option("str"),
    **UNUSED,
}
_OF_ROLES = ("copied_disks", "copied_chain", "upgrade")
FROM_VARIABLES = tuple(name for name in OPTIONS if name not in (*_OF_ROLES, "timeout", "variables_prefix", *UNUSED))
"""The options that ``variables_prefix`` takes from variables."""
FROM_ROLES = ("state", "remove_data", *_OF_ROLES)
"""The options that it takes from a role's own variables, with two underscores before the prefix."""


class Place:
    """Where the files of one VM are. What is data is in ``directory`` itself, all else in ``run``."""

    def __init__(self, directory: str, user: str | None) -> None:
        """``user``: who QEMU runs as, None: whoever runs the task."""
        self.directory = directory
        self.user = user
        self.name = os.path.basename(directory)
        self.parent = os.path.dirname(directory)
        self.run = f"{directory}/run"
        self.socket = f"{self.run}/qmp"
        self.events = f"{self.run}/events"
        self.pidfile = f"{self.run}/pid"
        self.log = f"{self.run}/qemu.log"
        self.console_log = f"{self.run}/console.log"
        self.seed = f"{self.run}/seed.iso"
        self.sockets = f"{self.run}/sockets"
        self.record = f"{directory}/vm.json"
        self.uefi_vars = f"{directory}/uefi-vars.fd"
        self.code = f"{self.parent}/.code"
        self.saved = f"{directory}/saved"
        """Its guest, saved when the host went down. Outlives a reboot."""
        self.moving = f"{directory}/moving"
        """There while its guest is being moved to another host, and for as long as it may run there. Outlives a reboot."""


def checked(params: Dict[str, Any]) -> Dict[str, Any]:
    """Return the options with the defaults that depend on others; what is empty is not there. Raise Refusal."""
    params = {key: None if value in ("", {}, []) and key not in _EMPTY else value for key, value in params.items()}
    if params["variables_prefix"]:
        raise Refusal(f"variables_prefix: {params['variables_prefix']!r} is in machines: give it to the task itself")
    params["user"] = _user(params["user"])
    name = params["name"] or ""
    params["directory"] = directory = params["directory"] or f"{_ROOT}/{name}"
    if not _NAME.match(name) or not _is_its_own(directory, name):
        raise Refusal(
            f"name is {name!r} and directory {directory!r}. A name has at most 64 letters, digits, and after the first also "
            "_ . -. The directory is an absolute path that ends in the name, since all in it is the virtual machine's"
        )
    if "%" in directory:
        raise Refusal(
            f"directory: {directory!r} has a %, which QEMU does not take in the path of its log: choose another one"
        )
    for option in ("start_timeout", "plug_timeout", "save_timeout"):
        if params[option] <= 0:
            raise Refusal(f"{option}: {params[option]} is not a positive number of seconds")
    if params["shutdown_timeout"] < 0:
        raise Refusal(f"shutdown_timeout: {params['shutdown_timeout']} is not a number of seconds; 0 ends QEMU at once")
    architecture = command_line.architecture(params["binary"])
    if params["state"] == "running":
        params["machine"] = machine = params["machine"] or machine_type.usual(architecture)
        if params["firmware"] == "auto":
            params["firmware"] = "uefi" if machine_type.needs_uefi(machine, architecture) else "bios"
    params["disk"] = params["disk"] or f"{directory}/disk.qcow2"
    params["image_directory"] = params["image_directory"] or f"{os.path.dirname(directory)}/.images"
    _check_kept(params)
    if params["state"] == "running":
        _check_machine(params)
        _check_image(params)
        _check_secrets(params)
    return params


def _check_kept(params: Dict[str, Any]) -> None:
    """Raise Refusal for a disk where nothing is kept: a virtual machine that is removed leaves its data and nothing else."""
    place = Place(params["directory"], None)
    own = (place.record, place.saved, f"{place.saved}.old", f"{place.saved}.part", place.moving, place.uefi_vars)
    for path in [params["disk"], *(disk.get("filename") for disk in params["disks"])]:
        path = os.path.normpath(str(path)) if path else ""
        if path in own:
            raise Refusal(f"disk: {path} is where this module keeps something else: give another path")
        if path.startswith(f"{place.run}/") and not params["remove_data"]:
            raise Refusal(
                f"disk: {path} is in {place.run}, which goes with state=absent and all that is in it: put it elsewhere"
            )


_EMPTY = ("user", "machine_options", "arguments", "copied_disks", "disk_options", "meta_data", "taps", *LISTS)


def seconds(params: Dict[str, Any]) -> float:
    """Return how long a task may take in all."""
    if params["timeout"]:
        return float(params["timeout"])
    stop = params["shutdown_timeout"] * 2 + 10
    start = params["start_timeout"] + params["plug_timeout"] + params["save_timeout"]
    return float(stop + start + _IMAGES_SECONDS)


def _user(user: str | None) -> str | None:
    """Return who QEMU runs as; None: whoever runs the task."""
    if not user or user == pwd.getpwuid(os.geteuid()).pw_name:
        return None
    return user


def _is_its_own(directory: str, name: str) -> bool:
    return (
        os.path.isabs(directory)
        and os.path.normpath(directory) == directory
        and os.path.basename(directory) == name
        and name not in (".", "..")
        and directory.isprintable()
    )


def _check_machine(params: Dict[str, Any]) -> None:
    most = params["vcpus_max"]
    if params["user"] and os.geteuid() != 0:
        raise Refusal(
            f"user: only root can have QEMU run as {params['user']}: run the task as root, or leave user empty"
        )
    if params["vcpus"] < 1 or (most and params["vcpus"] > most):
        raise Refusal(
            f"vcpus is {params['vcpus']}, and vcpus_max {most}: ask for at least 1, and not for more than vcpus_max"
        )
    if params["uefi_vars"] and not params["uefi_code"]:
        raise Refusal(f"uefi_vars is {params['uefi_vars']}, and uefi_code, which it belongs to, is not set")
    if params["root_ports"] < 0:
        raise Refusal(f"root_ports: {params['root_ports']} is not a number of ports")
    for option in ("memory", "disk_size", "memory_max"):
        try:
            human_size(params[option] or "1")
        except ValueError as exc:
            raise Refusal(f"{option}: {exc}") from exc


def _check_image(params: Dict[str, Any]) -> None:
    checksum = params["image_checksum"]
    if not params["image"]:
        return
    if not is_url(params["image"]) and not os.path.isabs(params["image"]):
        raise Refusal(f"image: {params['image']!r} is neither a URL nor an absolute path")
    listed = is_url(params["image"]) and _LISTED_CHECKSUM.match(checksum or "")
    if checksum and not _CHECKSUM.match(checksum) and not listed:
        raise Refusal(f"image_checksum is {checksum!r}: write it as sha256:HEX")


def _check_secrets(params: Dict[str, Any]) -> None:
    """Raise Refusal for a secret that would be kept on the host with the rest: every user can read a command line, too."""
    if list(command_line.secrets([params["arguments"], params["vnc"] or ""])):
        raise Refusal("arguments: a secret in plain words, which every user of the host could read: give it as a file")
    for number, entry in enumerate(params["objects"]):
        if OBJECT.secrets(entry):
            raise Refusal(
                f"objects[{number}] {entry.get('id', '')}: a secret in plain words. What a virtual machine has is kept on the "
                "host, to be made again after a reboot: give the secret as a file"
            )


def is_url(image: str | None) -> bool:
    """Tell whether an image is fetched from somewhere."""
    return bool(_URL.match(image or ""))


def known_checksum(params: Dict[str, Any]) -> str | None:
    """Return the image's checksum (``sha256:HEX``), where it is given itself and not as a list of some."""
    checksum = params["image_checksum"]
    return checksum if checksum and _CHECKSUM.match(checksum) else None
