# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a resource, step by step, as every module's test walks it."""

from __future__ import annotations

from typing import Any

import pytest

from support.modules import ModuleFailed, run_module
from support.vm import VM


class Lifecycle:
    """One module on one VM. Every step runs in check mode first, and is held against what check mode foretold."""

    def __init__(self, vm: VM, module: str) -> None:
        self.vm = vm
        self.module = module

    def step(self, changed: bool = True, **options: Any) -> dict[str, Any]:
        """Check mode (which must leave the VM alone), the real run (which must do what that said), and once more (nothing)."""
        before = self.vm.fingerprint()
        foretold = run_module(self.vm, self.module, check=True, diff=True, **options)
        assert self.vm.fingerprint() == before, "check mode altered the VM"
        done = run_module(self.vm, self.module, diff=True, **options)
        assert done["changed"] == foretold["changed"] == changed
        assert done["commands"] == foretold["commands"]
        assert done["diff"] == foretold["diff"]
        assert bool(done["commands"]) == changed
        assert (done["diff"]["before"] != done["diff"]["after"]) == changed
        after = self.vm.fingerprint()
        self.same(**options)
        assert self.vm.fingerprint() == after
        return done

    def same(self, **options: Any) -> dict[str, Any]:
        """A run that has nothing to do, and says so."""
        for check in (True, False):
            again = run_module(self.vm, self.module, check=check, diff=True, **options)
            assert (again["changed"], again["commands"]) == (False, [])
            assert again["diff"]["before"] == again["diff"]["after"]
        return again

    def refused(self, *words: str, foretold: bool = True, **options: Any) -> dict[str, Any]:
        """A run that fails with these words in its message and leaves the VM as it was; in check mode too if ``foretold``."""
        before = self.vm.fingerprint()
        for check in (True, False) if foretold else (False,):
            with pytest.raises(ModuleFailed) as failed:
                run_module(self.vm, self.module, check=check, **options)
            for word in words:
                assert word in failed.value.result["msg"], failed.value.result["msg"]
            assert self.vm.fingerprint() == before, f"left behind: {failed.value.result}"
        return failed.value.result


def names(result: dict[str, Any]) -> list[str]:
    """The commands of a result, without their arguments."""
    return [command["execute"] for command in result["commands"]]
