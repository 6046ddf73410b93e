# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module's process imports from its zip file is as Python's own importer would have it, and is compiled once."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core import _zip
from ansible_collections.vmm.qemu.plugins.module_utils._core._zip import Finder, compile_once

FILES = {
    "a/__init__.py": "",
    "a/one.py": "from . import deep\nfrom .deep.two import TWO\n",
    "a/deep/__init__.py": "import sys",
    "a/deep/two.py": "TWO = 2",
    "first.py": "import a.one",
}
# Says how often each file was compiled, and what the modules are told of themselves.
IMPORTS = """
import collections, json, sys
compiled = collections.Counter()
sys.addaudithook(lambda event, of: compiled.update([of[1]] if event == "compile" and sys.argv[1] in str(of[1]) else []))
sys.path[:0] = sys.argv[1:3]
import first
if len(sys.argv) > 3:
    exec(open(sys.argv[3]).read())
    compile_once(first.__loader__, sys.meta_path)
    del sys.modules["a"], sys.modules["a.one"], sys.modules["a.deep"], sys.modules["a.deep.two"]
compiled.clear()
import a.one, a.deep.two
try:
    import a.none
except ModuleNotFoundError as exc:
    print(exc, file=sys.stderr)
def told(module):
    spec = module.__spec__
    return [module.__file__, list(getattr(module, "__path__", [])), module.__package__, type(module.__loader__).__name__,
            spec.origin, spec.has_location, spec.parent, spec.cached]
print(json.dumps([{name: told(module) for name, module in sys.modules.items() if name.split(".")[0] == "a"}, compiled]))
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "payload.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in FILES.items():
            file.writestr(name, text)
    return path


def imported(archive: Path, *code: str) -> Any:
    command = [sys.executable, "-I", "-S", "-c", IMPORTS, str(archive), str(archive.parent), *code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "No module named 'a.none'" in done.stderr
    return json.loads(done.stdout)


def test_once(archive: Path) -> None:
    assert isinstance(_zip.__file__, str)
    told, compiled = imported(archive, _zip.__file__)
    assert {name: compiled[f"{archive}/{name}"] for name in FILES if name.count("/")} == {
        "a/__init__.py": compiled[f"{archive}/a/__init__.py"],  # what is in no package is Python's to find
        "a/one.py": 1,
        "a/deep/__init__.py": 1,
        "a/deep/two.py": 1,
    }
    assert told == imported(archive)[0]
    assert set(told) == {"a", "a.one", "a.deep", "a.deep.two"}


def test_what_comes_before_the_zip_file_goes_first(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text("")
    finder = Finder(str(archive))
    places = [str(tmp_path / "a"), f"{archive}/a"]
    assert finder.find_spec("a.one", places) is None
    found = finder.find_spec("a.one", places[::-1])
    assert found is not None and found.origin == f"{archive}/a/one.py"
    assert finder.find_spec("a.none", places[::-1]) is None and finder.find_spec("a") is None
    assert finder.find_spec("a.one", [f"{archive}x/a"]) is None


def test_what_does_not_come_from_a_zip_file_is_left_alone() -> None:
    finders: list[Any] = []
    compile_once(_zip.__loader__, finders)
    assert finders == []
