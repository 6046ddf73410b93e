# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that a task leaves to variables."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail

from ansible_collections.vmm.qemu.plugins.module_utils._vm.options import FROM_VARIABLES
from ansible_collections.vmm.qemu.plugins.plugin_utils._variables import with_variables
from support.collection import REPO

OMIT = "__omit_place_holder__0"


def taken(args: dict[str, Any], old: bool = False, **variables: Any) -> dict[str, Any]:
    """What a task has of its options, where Ansible's template says `<value>`. `old`: before ansible-core 2.19."""

    def template(found: dict[str, Any]) -> dict[str, Any]:
        return {key: f"<{value}>" if isinstance(value, str) else value for key, value in found.items()}

    options = ("name", "memory", "cpu", "disks")
    return with_variables(args, options, ("memory", "upgrade"), {"omit": OMIT if old else None, **variables}, template)


def test_what_the_task_does_not_give_is_taken() -> None:
    variables: dict[str, Any]
    variables = {"vm_name": "web1", "vm_memory": "1G", "cpu": "max", "vm_other": 1, "xvm_cpu": "x", "vm_upgrade": "x"}
    assert taken({"variables_prefix": "vm_"}, **variables) == {"name": "<web1>", "memory": "<1G>"}
    given = {"variables_prefix": "vm_", "name": "web2", "memory": None}
    assert taken(given, **variables) == {"name": "web2", "memory": None}
    assert taken({**given, "cpu": 1, "disks": []}, **variables)["cpu"] == 1


def test_what_a_role_says_counts_before() -> None:
    variables: dict[str, Any] = {"vm_memory": "1G", "__vm_memory": "2G", "__vm_cpu": "max"}
    assert taken({"variables_prefix": "vm_"}, **variables) == {"memory": "<2G>"}
    found = taken({"variables_prefix": "vm_", "memory": "3G"}, **variables, __vm_upgrade="auto")
    assert found == {"memory": "3G", "upgrade": "<auto>"}
    assert taken({"variables_prefix": "vm_"}, vm_memory="1G", __vm_memory=None, __vm_upgrade=None) == {"memory": "<1G>"}


def test_nothing_is_taken_unasked() -> None:
    for prefix in ("", None):
        assert taken({"name": "web2", "variables_prefix": prefix}, vm_memory="1G", memory="1G") == {"name": "web2"}
    assert taken({"name": "web2"}, vm_memory="1G", memory="1G") == {"name": "web2"}


@pytest.mark.parametrize("prefix", ["vm", "vm_ ", ["vm_"], {"vm_": 1}, True, 5, "1"])
def test_a_prefix_of_nothing_is_an_error(prefix: Any) -> None:
    variables: dict[str, Any] = {"vm_memory": "1G", "Truememory": 1, "5memory": 1, "1memory": 1, "memory": 1}
    with pytest.raises(
        AnsibleActionFail, match=r"variables_prefix: this host has no variable that is named .* and an option"
    ):
        taken({"variables_prefix": prefix, "name": "web1", "memory": "2G"}, **variables)


def test_an_old_core_is_given_templates_as_its_users_write_them() -> None:
    """There a text that looks like a dictionary becomes one."""
    found = taken({"variables_prefix": "vm_"}, True, vm_memory="1G", vm_disks=[{"id": "d"}])
    assert found == {"memory": "<{{ vm_memory }}>", "disks": "<{{ vm_disks }}>"}


def test_what_is_omitted_is_left_out() -> None:
    """A new core has left it out itself."""
    disks = [{"id": "d", "size": OMIT, "blockdev": {"x": OMIT, "y": 1}}, OMIT]
    variables = {"omit": OMIT, "vm_cpu": OMIT, "vm_disks": disks, "vm_memory": "1G"}

    def template(found: dict[str, Any]) -> dict[str, Any]:
        return {key: variables[value.strip("{} ")] for key, value in found.items()}

    found = with_variables({"variables_prefix": "vm_"}, ("memory", "cpu", "disks"), (), variables, template)
    assert found == {"memory": "1G", "disks": [{"id": "d", "blockdev": {"y": 1}}]}


def test_the_role_has_a_variable_for_each_option() -> None:
    specs = yaml.safe_load((REPO / "roles" / "vm" / "meta" / "argument_specs.yml").read_text())
    described = {name.removeprefix("vm_") for name in specs["argument_specs"]["main"]["options"]}
    assert described == set(FROM_VARIABLES)
