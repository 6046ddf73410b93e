# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""What a host needs to run the collection's tasks: its modules, and Ansible's validation of arguments."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import threading
import zlib
from pathlib import Path
from typing import Iterator

from ansible import constants, module_utils
from ansible.release import __version__

_PLUGINS = Path(__file__).resolve().parents[1]
_PACKAGE = "ansible_collections.vmm.qemu.plugins"
_ANSIBLE = "ansible.module_utils"
_VALIDATION = f"{_ANSIBLE}.common.arg_spec"
_DOCUMENTATION = re.compile(r'^(DOCUMENTATION|EXAMPLES|RETURN) = r?""".*?"""', re.MULTILINE | re.DOTALL)

STUB = (_PLUGINS / "module_utils" / "_runner_stub.py").read_bytes()
PACK = (_PLUGINS / "module_utils" / "_runner_pack.py").read_bytes()


def _own() -> Iterator[Path]:
    """Yield the collection's files that a host needs, always in the same order."""
    yield from sorted([*_PLUGINS.glob("module_utils/**/*.py"), *_PLUGINS.glob("modules/*.py")])


def name(anew: bool = False) -> str:
    """Return what a bundle is called: it differs where anything in it does. Looked at once in a run of Ansible, or ``anew``."""
    kept = Path(constants.DEFAULT_LOCAL_TMP, "vmm.qemu-bundle")
    if anew or not kept.exists():
        part = kept.with_name(f"{kept.name}-{os.getpid()}-{threading.get_ident()}")
        part.write_text(_digest())
        part.replace(kept)
    return kept.read_text()


def _digest() -> str:
    digest = hashlib.sha256(f"{__version__}\0".encode() + Path(__file__).read_bytes())
    for path in _own():
        digest.update(f"\0{path.relative_to(_PLUGINS)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def bundle() -> bytes:
    """Return the sources, packed: ``{module: [is it a package, its text]}``."""
    sources: dict[str, tuple[bool, str]] = {}
    for path in _own():
        module = ".".join([_PACKAGE, *path.relative_to(_PLUGINS).with_suffix("").parts])
        sources[module] = False, _DOCUMENTATION.sub("", path.read_text())
    _add_with_imports(_VALIDATION, sources)
    for module in list(sources):
        while module := module.rpartition(".")[0]:
            sources.setdefault(module, (True, ""))
    return zlib.compress(json.dumps(sources).encode())


def _add_with_imports(module: str, sources: dict[str, tuple[bool, str]]) -> None:
    """Add a file of Ansible's, and what it imports of Ansible's, wherever in it."""
    place = Path(module_utils.__path__[0], *module[len(_ANSIBLE) :].split("."))
    files = [path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()]
    if module in sources or not module.startswith(f"{_ANSIBLE}.") or not files:
        return
    is_package = files[0].stem == "__init__"
    sources[module] = is_package, files[0].read_text()
    _add_with_imports(module.rpartition(".")[0], sources)
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(sources[module][1])):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*package[: len(package) + 1 - node.level], node.module or ""] if node.level else [node.module or ""]
            )
            found = [base.strip("."), *(f"{base.strip('.')}.{alias.name}" for alias in node.names)]
        else:
            continue
        for other in found:
            _add_with_imports(other, sources)
