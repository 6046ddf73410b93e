# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guides of the documentation site: what its builder refuses, and the linters don't see."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_pygments.lexers import AnsibleOutputLexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Error

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "docsite" / "rst"
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
    ("language", "text"), [(language, text) for _, language, text in BLOCKS], ids=[b[0] for b in BLOCKS]
)
def test_a_code_block_is_in_the_language_that_it_says(language: str, text: str) -> None:
    lexer = AnsibleOutputLexer() if language == "ansible-output" else get_lexer_by_name(language)
    assert [value for kind, value in lexer.get_tokens(text) if kind is Error] == []
