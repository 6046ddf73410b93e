# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The house's own rules: arrows point down only, rooms stay small, nothing but the standard library below."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
PREFIX = "ansible_collections.vmm.qemu.plugins."
# From the ground up. A file may import what stands on its own floor or below.
FLOORS = [
    "module_utils/_qmp/",
    "module_utils/_core/",
    "module_utils/_host/",
    "module_utils/_kinds/",
    "module_utils/_engine/",
    "module_utils/_operations/",
    "module_utils/_migration/",
    "module_utils/_backup/",
    "module_utils/_provision/",
    "module_utils/_machine/",
    "module_utils/_vm/",
    "module_utils/",
    "modules/",
    "plugin_utils/",
    "action/",
    "inventory/",
    "connection/",
    "filter/",
]
LIMITS = {"file": 400, "function": 40, "module": 150}
FILES = sorted(path for path in PLUGINS.rglob("*.py") if "doc_fragments" not in path.parts)


def floor(path: str) -> int:
    return next(number for number, prefix in enumerate(FLOORS) if path.startswith(prefix))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, wherever in it, with relative names made whole."""
    package = (PREFIX + ".".join(path.relative_to(PLUGINS).parent.parts)).split(".")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            base = base if node.level else str(node.module)
            is_package = (
                (PLUGINS / base[len(PREFIX) :].replace(".", "/")).is_dir() if base.startswith(PREFIX) else False
            )
            yield from ((f"{base}.{alias.name}" if is_package else base, node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PLUGINS)))
def test_arrows_point_down(path: Path) -> None:
    mine = floor(str(path.relative_to(PLUGINS)))
    for name, line in imports(path):
        if name.startswith(PREFIX):
            other = name[len(PREFIX) :].replace(".", "/")
            assert floor(f"{other}.py") <= mine, f"{path.name}:{line} looks up to {other}"
        elif mine == 0:
            assert name.split(".")[0] in sys.stdlib_module_names, (
                f"{path.name}:{line}: {name} is not in the standard library"
            )
        elif mine < FLOORS.index("module_utils/_operations/"):
            assert not name.startswith("ansible."), f"{path.name}:{line}: only the way in knows Ansible"


def circle(files: list[Path]) -> list[str]:
    """Return the files that import each other, and those that import one of them."""
    modules = {PREFIX + ".".join(path.relative_to(PLUGINS).with_suffix("").parts): path for path in files}
    graph = {name: {other for other, _line in imports(path)} & set(modules) - {name} for name, path in modules.items()}
    while free := [name for name, below in graph.items() if not below & set(graph)]:
        for name in free:
            del graph[name]
    return sorted(graph)


def test_no_file_imports_one_that_imports_it() -> None:
    """Not even for the sake of types: a file can be read from the ground up."""
    assert not circle(FILES)


def test_the_walk_finds_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "plugins" / "module_utils" / "_core"
    room.mkdir(parents=True)
    monkeypatch.setattr(sys.modules[__name__], "PLUGINS", tmp_path / "plugins")
    sources = {"a": "from .b import B", "b": "if TYPE_CHECKING:\n    from . import c", "c": "from .a import A", "d": ""}
    for name, source in sources.items():
        (room / f"{name}.py").write_text(source)
    assert circle(sorted(room.iterdir())) == [f"{PREFIX}module_utils._core.{name}" for name in "abc"]


def test_the_walk_finds_an_upward_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = tmp_path / "plugins"
    (plugins / "module_utils" / "_qmp").mkdir(parents=True)
    (plugins / "module_utils" / "_kinds").mkdir()
    monkeypatch.setattr(sys.modules[__name__], "PLUGINS", plugins)
    for source in (
        "from .._module import Module",
        f"from {PREFIX}module_utils._kinds import device",
        f"import {PREFIX}modules.x",
    ):
        bad = plugins / "module_utils" / "_qmp" / "x.py"
        bad.write_text(source)
        with pytest.raises(AssertionError, match="looks up"):
            test_arrows_point_down(bad)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PLUGINS)))
def test_rooms_stay_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    if path.parent.name == "modules":
        code = [line for line in text.splitlines()[_documentation_end(tree) :] if line.strip()]
        assert len(code) <= LIMITS["module"]
    else:
        assert len(text.splitlines()) <= LIMITS["file"]
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LIMITS["function"], f"{path.name}: {node.name} has {length} lines"


def _documentation_end(tree: ast.Module) -> int:
    ends = [
        node.end_lineno or 0
        for node in tree.body
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") in ("DOCUMENTATION", "EXAMPLES", "RETURN")
    ]
    return max(ends, default=0)
