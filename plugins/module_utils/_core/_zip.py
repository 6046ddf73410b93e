# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Imports from the zip file in which Ansible sends a module, and compiles each file once.

Python's zipimport compiles a file also to tell where it is (https://github.com/python/cpython/issues/141276): that was a tenth
of what a module's process takes.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from importlib.machinery import ModuleSpec
from typing import Any, Dict, List, Sequence
from zipimport import ZipImportError, zipimporter


class Finder:
    """Finds the modules of packages that lie in one zip file. It knows where a module is without its code."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._importers: Dict[str, zipimporter] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Return how to import a module, or None where it is not in that file. ``path``: where its package is."""
        for place in path or ():
            if not place.startswith(f"{self._archive}/"):
                break  # what comes first there goes first
            importer = self._importers.get(place)
            try:
                importer = importer or self._importers.setdefault(place, zipimporter(place))
                is_package = importer.is_package(name)
            except ZipImportError:
                continue
            return self._spec(name, importer, f"{place}/{name.rpartition('.')[2]}", is_package)
        return None

    def _spec(self, name: str, importer: zipimporter, here: str, is_package: bool) -> ModuleSpec:
        origin = f"{here}/__init__.py" if is_package else f"{here}.py"
        loader: Any = importer
        spec = ModuleSpec(name, loader, origin=origin, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [here]
        return spec


def compile_once(loader: Any, finders: List[Any]) -> None:
    """Put a finder before the others where this code comes from a zip file. ``loader``: that of a module of ours."""
    if isinstance(loader, zipimporter):
        finders.insert(0, Finder(loader.archive))
