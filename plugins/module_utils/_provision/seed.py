# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A volume that cloud-init's NoCloud reads at a guest's first start."""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Dict, List

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.option import Option, Want
from .._host import part_file
from .._host.iso9660 import HEAD, label, volume
from .._host.ownership import OWNER, Ownership, owner
from .._kinds.kind import Change, State
from .host_file import UNUSED, HostFile, converge_file, make_step

if TYPE_CHECKING:
    from .._core.host import Host
    from .._core.plan import Draft
    from .._core.step import Step
    from .._core.task import Task
    from .._qmp.deadline import Deadline

# cloud-init's names for the files, by the option's.
_FILES = {
    "user_data": "user-data",
    "meta_data": "meta-data",
    "network_config": "network-config",
    "vendor_data": "vendor-data",
}
# as cloud-init has them, in lower case: cloudinit/handlers/__init__.py
_HEADS = (
    "#cloud-config",
    "#cloud-boothook",
    "#!",
    "#include",
    "#part-handler",
    "#upstart-job",
    "## template: jinja",
    "#ps1",
    "rem cmd",
)
_CLOUD_CONFIG = ("user_data", "vendor_data")  # scripts and much else, unless the first line says so
_LABEL = "cidata"
_MOST = 64 << 20


class Seed(HostFile):
    """A volume with the files that cloud-init reads."""

    name = "seed"
    in_diff = ("path", "sha256")
    options = {
        "path": Option("path", required=True),
        "user_data": Option("raw", hidden_whole=True, default=""),
        "meta_data": Option("raw", required=True),
        "network_config": Option("raw", hidden_whole=True),
        "vendor_data": Option("raw", hidden_whole=True),
        **OWNER,
        "mode": Option("str", default="0600"),
    }
    changeable_keys = HostFile.changeable_keys | {"sha256"}

    def read(self, host: Host, want: Want) -> State | None:
        """Return its path, digest, owner and mode. Raise Refusal for what is not such a volume."""
        have = super().read(host, want)
        if have is not None and "meta_data" in want:  # else it is to go
            have["sha256"] = _digest(_read(want["path"]))
        return have

    def wanted(self, host: Host, want: Want) -> State:
        """Return its path and digest, owner and mode. There can be passwords in the content, and it is never shown."""
        return {**super().wanted(host, want), "sha256": _digest(_content(want))}

    def warnings(self, want: Want) -> List[str]:
        """Return which texts cloud-init would ignore: it goes by how they begin."""
        ignored = [name for name in _CLOUD_CONFIG if isinstance(want.get(name), str) and not _is_known(want[name])]
        why = "cloud-init ignores a text whose first line does not say what it is, as #cloud-config does"
        return [f"{name}: {why}" for name in ignored]

    def create(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that writes it. Raise Refusal where no file can be made."""
        return [_write_step(want["path"], _content(want), owner(want), draft=draft)]

    def change(self, host: Host, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the step that writes a new one in its place, or those that give it away."""
        path = want["path"]
        found = part_file.existing("path", path)
        if found is None or not any(change.key == "sha256" for change in changes):
            return super().change(host, want, have, changes, draft)
        part_file.check_itself("path", path)
        before = Ownership(str(found.st_uid), found.st_uid, found.st_mode & 0o777)
        put_back = _write_step(path, _read(path), before, replace=True)
        return [_write_step(path, _content(want), owner(want), replace=True, undo=[put_back])]


SEED = Seed()
OPTIONS = {**SEED.options, **UNUSED, "timeout": Option("float", default=60.0)}


def run(task: Task) -> Dict[str, Any]:
    """Return the task's result. Raise TaskError and PlanFailed."""
    _comparison, result = converge_file(SEED, task, task.host())
    return {**result, "path": task.params["path"]}


def _content(want: Want) -> bytes:
    return volume(_LABEL, {file: _text(name, want[name]) for name, file in _FILES.items() if name in want})


def _digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _text(name: str, value: Any) -> bytes:
    """Return a file's content: a text as it is, a mapping as JSON, which is YAML. Raise Refusal."""
    if isinstance(value, dict):
        head = "#cloud-config\n" if name in _CLOUD_CONFIG else ""
        value = f"{head}{json.dumps(value, indent=2, default=str)}\n"
    if not isinstance(value, str):
        raise Refusal(f"{name}: this is neither a text nor a mapping")
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        where = f"{name}: its character {exc.start + 1}"
        raise Refusal(f"{where} is half of a pair (U+D800 to U+DFFF), which no file can hold") from None


def _is_known(text: str) -> bool:
    """Tell whether cloud-init knows what to do with a text, by its beginning; or whether there is none."""
    begins = text[:4096].lstrip().lower()
    return not begins or begins.startswith(_HEADS) or "mime-version:" in begins


def _read(path: str) -> bytes:
    """Return what is there. Raise Refusal for what is not such a volume, and so not replaced: a disk's image, say."""
    try:
        with safe_open.regular(path, links=True) as file:  # whose links they are has been looked at
            head = file.read(HEAD)
            if head and (label(head) or "").lower() != _LABEL:
                raise Refusal(
                    f"path: {path} is there and is not a {_LABEL} volume: it is kept; remove it, or give another path"
                )
            content = head + file.read(_MOST)
    except OSError as exc:
        raise Refusal(f"path: {path} can't be read: {exc.strerror}") from exc
    if len(content) > _MOST:
        raise Refusal(f"path: {path} is there and larger than any seed ({_MOST} bytes): it is kept; remove it")
    return content


def _write_step(path: str, content: bytes, whose: Ownership, **how: Any) -> Step:
    """Return the step that writes it all or nothing; nobody else can read it on the way. ``how``: as ``make_step`` has it."""

    def fill(part: int, deadline: Deadline) -> None:
        try:
            with open(part, "wb", closefd=False) as file:
                file.write(content)
        except OSError as exc:
            raise OperationFailed(f"path: {path} can't be written: {exc.strerror}") from exc

    return make_step(path, fill, whose, [["mv", part_file.part_path(path), path]], **how)
