# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Keys by their names, and the keys of an American keyboard that a text is typed with."""
# Private to the collection: may change without notice.

from __future__ import annotations

import string
from typing import Dict, List, Sequence

from .._core.errors import Refusal
from .._core.option import suggestion

ENTER = "ret"
_ALSO = {"enter": ENTER, "return": ENTER, "space": "spc", "escape": "esc", "del": "delete", "win": "meta_l"}
_PLAIN = {
    **{char: char for char in string.ascii_lowercase + string.digits},
    **{"\n": ENTER, "\t": "tab", " ": "spc", "-": "minus", "=": "equal", "[": "bracket_left", "]": "bracket_right"},
    **{
        ";": "semicolon",
        "'": "apostrophe",
        "`": "grave_accent",
        "\\": "backslash",
        ",": "comma",
        ".": "dot",
        "/": "slash",
    },
}
_SHIFTED = {
    **dict(zip('!@#$%^&*()_+{}:"~|<>?', "1234567890-=[];'`\\,./")),
    **{char.upper(): char for char in string.ascii_lowercase},
}
_KEYS: Dict[str, List[str]] = {
    **{char: [key] for char, key in _PLAIN.items()},
    **{char: ["shift", _PLAIN[below]] for char, below in _SHIFTED.items()},
}


def typed(where: str, text: str, secret: bool = False) -> List[List[str]]:
    """Return the keys, those that are held together as one list. Raise Refusal for a character that the keyboard lacks."""
    for place, char in enumerate(text):
        if char not in _KEYS:
            what = "a character" if secret else repr(char)
            raise Refusal(
                f"{where}: {what} (number {place + 1}) can't be typed on an American keyboard, which QEMU's is here"
            )
    return [_KEYS[char] for char in text]


def chords(where: str, keys: Sequence[str], known: Sequence[str] | None) -> List[List[str]]:
    """Return QEMU's names of the keys in ``ctrl-alt-delete``. Raise Refusal for one that is not ``known`` (None: all are)."""
    found = []
    for place, chord in enumerate(keys):
        names = [_ALSO.get(name, name) for name in chord.split("-")]
        for name in names:
            if known is not None and name not in known:
                raise Refusal(f"{where}[{place}]: QEMU has no key {name!r}{suggestion(name, known)}")
        found.append(names)
    return found
