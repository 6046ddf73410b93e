# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""The images that virtual machines need from a URL: `qemu_vm` says which, and `ansible.builtin.get_url` fetches them."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, NamedTuple

from ansible import constants
from ansible.module_utils.common.validation import check_type_dict

from ansible_collections.vmm.qemu.plugins.module_utils._core.secrets import redact, url_passwords
from ansible_collections.vmm.qemu.plugins.module_utils._machines import joined

if TYPE_CHECKING:
    from ansible.plugins.action import ActionBase

    Result = dict[str, Any]


_MASK = "********"
"""What Ansible puts in the place of a secret, be it a word in a path: such a path is not known here."""


class Image(NamedTuple):
    """An image that is not on the host yet."""

    path: str
    url: str
    checksum: str | None


def needed(args: dict[str, Any], result: Result) -> dict[str, Image]:
    """Return the images that a task's result asks for, by the name of the virtual machine in `machines`, or by an empty one."""
    found = {}
    for name, one in (result.get("machines") or {"": result}).items():
        if _MASK not in one.get("image_needed", _MASK):
            own = {**args, **(_machines(args)[name] or {} if name else {})}
            found[name] = Image(one["image_needed"], own["image"], own.get("image_checksum"))
    return found


def _machines(args: dict[str, Any]) -> dict[str, Any]:
    """Return the machines that a task names, which may be a text that Ansible reads as a dictionary."""
    machines: dict[str, Any] = check_type_dict(args["machines"])
    return machines


def with_images(action: ActionBase, result: Result, task_vars: dict[str, Any], again: Callable[[], Result]) -> Result:
    """Return the task's result with the images that it needs: fetched, and ``again`` run for the machines that lacked one.

    In check mode the result has foretold all but the fetching.
    """
    images = needed(action._task.args, result)
    if not images or action._task.check_mode:
        return _told(result, images)
    refused = {image: why for image in dict.fromkeys(images.values()) if (why := _fetch(action, image, task_vars))}
    there = {name: image for name, image in images.items() if image not in refused}
    results = result.get("machines")
    if results is None:
        return _told(again(), images) if there else {**result, "msg": refused[images[""]]}
    for name in images.keys() - there.keys():
        results[name]["msg"] = refused[images[name]]
    second: Result = {}
    if there:
        args = action._task.args
        action._task.args = {**args, "machines": {name: _machines(args)[name] for name in there}}
        try:
            second = _told(again(), there)
        finally:
            action._task.args = args  # `until` runs the same task once more, for all machines
    return _merged(result, second)


def _told(result: Result, images: dict[str, Image]) -> Result:
    """Return a result that tells of the images that were fetched, or in check mode would be."""
    for name, image in images.items():
        one = result.get("machines", {}).get(name) if name else result
        if one is not None:
            one["commands"] = [{"path": image.path, "action": "fetch"}, *one.get("commands", [])]
            one["changed"] = result["changed"] = True
    return result


def _merged(first: Result, second: Result) -> Result:
    """Return the result of both runs as that of one."""
    if second and "machines" not in second:  # it failed as a whole
        return {**second, "changed": True, "machines": first["machines"]}
    runs = [first, *([second] if second else [])]
    results = {name: one for run in runs for name, one in run["machines"].items()}
    whole = joined({name: dict(one) for name, one in results.items()})
    sides = {side: {} for side in ("before", "after")}  # type: dict[str, dict[str, Any]]
    for run in runs:
        for side, known in sides.items():
            known.update(run.get("diff", {}).get(side, {}))
    warnings = [text for run in runs for text in run.get("warnings", [])]
    told = {"machines": results, "diff": sides, **({"warnings": warnings} if warnings else {})}
    del whole["warnings"]
    return {**first, "failed": False, **whole, **told}


def _fetch(action: ActionBase, image: Image, task_vars: dict[str, Any]) -> str:
    """Put an image where it is needed, once for all tasks of this run that need it. Return why not, or an empty text."""
    directory = os.path.dirname(image.path)
    place = {"path": directory, "state": "directory", "mode": "0755"}
    fetched = {"url": image.url, "dest": image.path, "force": False, "mode": "0644"}
    if image.checksum:
        fetched["checksum"] = image.checksum
    with _alone(f"{action._connection.transport} {action._play_context.remote_addr} {image.path}"):
        # one that is there keeps its mode, be it /tmp or one that is nobody else's business
        make = [] if action._remote_file_exists(directory) else [("ansible.builtin.file", place)]
        for module, args in (*make, ("ansible.builtin.get_url", fetched)):
            done = action._execute_module(module, args, task_vars=task_vars)
            if done.get("failed"):
                why = f"image: {image.url} could not be fetched to {image.path}: {done.get('msg', '')}"
                return str(redact(why, list(url_passwords([image.url, image.checksum]))))
    return ""


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """Yield when no other task of this run of Ansible does the same."""
    name = f"vmm.qemu-{hashlib.sha256(what.encode()).hexdigest()}.lock"
    with Path(constants.DEFAULT_LOCAL_TMP, name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
