# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guides of the documentation site, the READMEs and the modules' examples: what no linter sees in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_pygments.lexers import AnsibleOutputLexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Error

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ROOT / "docs" / "docsite" / "rst"
READMES = [ROOT / "README.md", *sorted(ROOT.glob("roles/*/README.md"))]
MODULES = {
    path.stem: import_module(f"ansible_collections.vmm.qemu.plugins.modules.{path.stem}")
    for path in sorted(ROOT.glob("plugins/modules/qemu_*.py"))
}
BLOCK = re.compile(r"^( *)\.\. code-block:: (\S+)\n\n((?:\1    .*\n|\n)+)", re.MULTILINE)


def blocks() -> Iterator[tuple[str, str, str]]:
    for guide in sorted(GUIDES.glob("*.rst")):
        text = guide.read_text()
        for found in BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield f"{guide.name}:{line}", found[2], textwrap.dedent(found[3])


BLOCKS = list(blocks())


def test_all_code_blocks_are_found() -> None:
    assert len(BLOCKS) == sum(guide.read_text().count(".. code-block::") for guide in GUIDES.glob("*.rst"))


@pytest.mark.parametrize(
    ("language", "text"), [(language, text) for _where, language, text in BLOCKS], ids=[b[0] for b in BLOCKS]
)
def test_a_code_block_is_in_the_language_that_it_says(language: str, text: str) -> None:
    lexer = AnsibleOutputLexer() if language == "ansible-output" else get_lexer_by_name(language)
    assert [value for kind, value in lexer.get_tokens(text) if kind is Error] == []


def examples() -> Iterator[tuple[str, str]]:
    yield from ((where, text) for where, language, text in BLOCKS if language.startswith("yaml"))
    for readme in READMES:
        for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", readme.read_text(), re.DOTALL), start=1):
            yield f"{readme.relative_to(ROOT)}, {number}", text
    yield from ((name, module.EXAMPLES) for name, module in MODULES.items())


def tasks(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(module, options) of all tasks of this collection, however deep in a play."""
    for item in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if str(item[0]).startswith("vmm.qemu.qemu_"):
            yield str(item[0]).rpartition(".")[2], item[1] or {}
        yield from tasks(item[1])


EXAMPLES = list(examples())


@pytest.mark.parametrize("text", [text for _where, text in EXAMPLES], ids=[where for where, _text in EXAMPLES])
def test_an_example_has_options_that_its_module_takes(text: str) -> None:
    for module, options in tasks(yaml.safe_load(text)):
        spec = MODULES[module].MODULE.argument_spec
        found = ArgumentSpecValidator(spec).validate({"socket": "/from/module_defaults", **options})
        unknown = ["{{", *(f"argument '{name}' is" for name, value in options.items() if str(value).startswith("{{"))]
        assert [told for told in found.error_messages if not any(one in told for one in unknown)] == [], module


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_the_documentation_of_a_module_is_yaml(module: Any) -> None:
    assert yaml.safe_load(module.DOCUMENTATION)["module"] == module.__name__.rpartition(".")[2]
    assert yaml.safe_load(module.RETURN)


@pytest.mark.parametrize("name", ["execution-environment.yml", "project/fleet.yml"])
def test_the_example_of_a_controller_is_what_its_guide_shows(name: str) -> None:
    example = yaml.safe_load((ROOT / "examples/controller" / name).read_text())
    shown = [text for where, language, text in BLOCKS if where.startswith("controllers.rst") and language == "yaml"]
    shorter = [example[0] | {"tasks": example[0]["tasks"][:1]}] if isinstance(example, list) else example
    if isinstance(example, list):
        shorter[0]["tasks"][0].pop("register")
    assert shorter in [yaml.safe_load(text) for text in shown]


@pytest.mark.parametrize("path", sorted(ROOT.glob("playbooks/*.yml")), ids=lambda path: str(path.stem))
def test_a_playbook_is_in_its_guide_with_its_variables(path: Path) -> None:
    guide = (GUIDES / "playbooks.rst").read_text()
    own = set(re.findall(rf"(?<![\w.]){path.stem}_[a-z_]+", path.read_text()))
    assert {f"``{name}``" for name in {f"vmm.qemu.{path.stem}", *own}} <= set(re.findall(r"``[^`]+``", guide))


def test_the_arguments_of_the_event_source_are_in_its_guide() -> None:
    source = (ROOT / "extensions/eda/plugins/event_source/qmp_events.py").read_text()
    found = re.search(r'DOCUMENTATION = r"""(.*?)"""', source, re.DOTALL)
    assert found
    told = re.findall(r"^   \* - ``(\w+)``$", (GUIDES / "events.rst").read_text(), re.MULTILINE)
    assert set(yaml.safe_load(found[1])["options"]) <= set(told)
