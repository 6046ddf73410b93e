# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest prints: made fit to be shown, searched, and without secrets."""

from __future__ import annotations

import random
import re
import string
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import OperationFailed, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import REDACTED
from ansible_collections.vmm.qemu.plugins.module_utils._operations import console_text
from ansible_collections.vmm.qemu.plugins.module_utils._operations.console_keys import chords, typed
from ansible_collections.vmm.qemu.plugins.module_utils._operations.console_text import (
    LONGEST_LINE,
    Picture,
    Transcript,
    Wanted,
    clean,
    hide,
    hide_part,
)

SEED = 4711


def wanted(*expressions: str) -> list[Wanted]:
    return [Wanted(f"regex {one!r}", re.compile(one, re.MULTILINE), True) for one in expressions]


def found(shown: Transcript | Picture, *expressions: str) -> tuple[int, str] | None:
    match = shown.find(wanted(*expressions))
    return None if match is None else (match[0], match[1].group())


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"login: ", "login: "),
        (b"\x1b[1;32mOK\x1b[0m ready\r", "OK ready"),
        (b"10%\r20%\r", "10%\n20%"),
        (b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe\x1b[02;01Hboot", "BdsDxe\nboot"),
        (b"a\x1b]0;rm -rf\x07b\x1b]2;title\x1b\\c", "abc"),
        (b"a\x1b]0;never ended \rb", "a\nb"),
        (b"\x1bPq#0\x1b\\pic\x1b(B\x1b=\x1b7", "pic"),
        (b"half \x1b[3", "half "),
        (b"half \x1b", "half "),
        (b"\x9b31mC1 \xc2\x9b31m", "�31mC1 31m"),
        ("\u00e9 \u202egnirts \u2028x\u200b".encode(), "é gnirts x"),
        (b"\xff\xfe\0\a\b\v\f\x7f", "��"),
        (b"a\tb", "a\tb"),
    ],
)
def test_nothing_that_a_terminal_acts_on_is_left(raw: bytes, text: str) -> None:
    assert clean(raw) == text


def test_whatever_comes_is_printable_and_the_same_in_any_pieces() -> None:
    chance = random.Random(SEED)
    for _round in range(200):
        raw = bytes(chance.choice(b"\x1b\x1b[]0;mHK\\\x07\x9b\xc2\r\nabc ") for _round in range(chance.randint(1, 300)))
        whole, pieces, at = Transcript(), Transcript(), 0
        whole.feed(raw)
        while at < len(raw):
            size = chance.randint(1, 9)
            pieces.feed(raw[at : at + size])
            found(pieces, "nowhere")
            at += size
        assert whole.lines == pieces.lines
        assert all(char.isprintable() for line in whole.lines for char in line)


def test_each_is_looked_for_behind_the_one_before() -> None:
    text = Transcript()
    text.feed(b"one two\nthree one ")
    assert found(text, "two", "one") == (1, "one")
    assert found(text, "one") == (0, "one")
    assert text.read == len(b"one two\nthree one ")
    assert found(text, "one") is None
    text.feed(b"and one\n")
    assert found(text, "^three") is None, "that begins before"
    text.feed(b"one\nend")
    assert found(text, "^one$") == (0, "one")
    assert text.read == len(b"one two\nthree one and one\none\n")
    assert text.lines == ["one two", "three one and one", "one", "end"]


def test_a_line_that_is_still_being_printed() -> None:
    text = Transcript()
    text.feed(b"Linux 6.1.0-50-clo")
    assert found(text, r"\d\S*") is None
    literal = text.find([Wanted("text", re.compile("Linux"), False)])
    assert literal and literal[1].group() == "Linux"
    text.feed(b"ud\nname: ")
    assert found(text, r"\d\S*") == (0, "6.1.0-50-cloud")
    assert found(text, ": $") is None
    text.quiet = True
    assert found(text, ": $") == (0, ": ")


def test_a_guest_that_prints_without_end_costs_no_memory() -> None:
    text = Transcript()
    for _round in range(20):
        text.feed(b"x" * 50_000)
        text.feed(b"y\n" * 5_000)
        assert found(text, "nowhere") is None
    assert sum(map(len, text.lines)) < 1 << 17
    assert all(len(line) <= LONGEST_LINE for line in text.lines)
    text.feed(b"here\n")
    assert found(text, "here") == (0, "here")


def test_an_expression_that_takes_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_text, "_PATIENCE", 0.2)
    text = Transcript()
    text.feed(b"a" * 4000 + b"!")
    with pytest.raises(OperationFailed, match=r"regex '\(a\+\)\+\$' takes more than 0.2 s of the processor"):
        found(text, "(a+)+$")
    text.quiet = True
    assert found(text, "a!") == (0, "a!")


def screen(*rows: bytes, fill: bytes = b" ") -> bytes:
    data = b"".join(row.ljust(80, fill) for row in rows).ljust(16384, b"\0")
    return bytes(byte for code in data for byte in (code, 7))


def test_a_screen() -> None:
    shown = Picture(screen(b"SeaBIOS (version 1)", b"", b"\xda\xc4\xbf \x01\x1b[2J\x7f\xff", b"Select:"))
    assert shown.lines == ["SeaBIOS (version 1)", "┌─┐ ☺←[2J⌂", "Select:"]
    assert found(shown, "Select", "^SeaBIOS") == (1, "SeaBIOS")
    assert found(shown, "BIOS") == found(shown, "BIOS") == (0, "BIOS")
    assert Picture(b"").lines == [] == Picture(bytes(32768)).lines
    graphics = Picture(b"\xff" * 32768)
    assert (graphics.is_text, graphics.lines) == (False, [])


@pytest.mark.parametrize(
    ("lines", "hidden"),
    [
        (["is open sesame!", "x"], [f"is {REDACTED}!", "x"]),
        (["is open ses", "ame!"], [f"is {REDACTED}", f"{REDACTED}!"]),
        (["is open", "sesame"], [f"is {REDACTED}", REDACTED]),
        (["Password: open se"], [f"Password: {REDACTED}"]),
        (["sesame open"], [f"sesame {REDACTED}"]),
        (["nothing"], ["nothing"]),
    ],
)
def test_a_secret_is_hidden_also_where_it_is_broken_in_two(lines: list[str], hidden: list[str]) -> None:
    assert hide(lines, ["open sesame"]) == hidden
    assert hide(lines, []) == lines


def test_keys() -> None:
    assert typed("text", 'aA1! "|\n') == [
        *(["a"], ["shift", "a"], ["1"], ["shift", "1"], ["spc"]),
        *(["shift", "apostrophe"], ["shift", "backslash"], ["ret"]),
    ]
    assert len(typed("text", string.printable[:-3])) == len(string.printable) - 3
    known = ["ctrl", "alt", "delete", "ret", "esc"]
    assert chords("keys", ["ctrl-alt-del", "enter", "esc"], known) == [["ctrl", "alt", "delete"], ["ret"], ["esc"]]
    wrong: list[tuple[Any, str]] = [
        (lambda: typed("text", "grün"), r"text: 'ü' \(number 3\)"),
        (lambda: typed("expect\\[0\\].answer", "grün", secret=True), r"a character \(number 3\)"),
        (
            lambda: chords("keys", ["esc", "ctrl-delet"], known),
            r"keys\[1\]: QEMU has no key 'delet' \(did you mean 'delete'",
        ),
        (lambda: chords("keys", [""], known), r"keys\[0\]: QEMU has no key ''"),
    ]
    for call, message in wrong:
        with pytest.raises(Refusal, match=message):
            call()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, None),
        ("", ""),
        ("login: ada", "login: ada"),
        ("key=topsecret!", f"key={REDACTED}!"),
        ("psecr", REDACTED),
        ("top\nsecret", f"{REDACTED}\n"),
    ],
)
def test_what_an_expression_found_shows_no_part_of_a_secret(text: str | None, shown: str | None) -> None:
    assert (hide_part(text, ["topsecret"]) or "").rstrip("\n") == (shown or "").rstrip("\n")
