# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation site, as Sphinx makes it of README.md, the guides, and the pages of antsibull-docs. scripts/docs runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())
GUIDES = yaml.safe_load((ROOT / "docs/docsite/extra-docs.yml").read_text())["sections"]
REPOSITORY = GALAXY["repository"]

project = "vmm.qemu"
copyright = "the vmm.qemu contributors"
version = release = GALAXY["version"]
extensions = ["myst_parser", "sphinx_antsibull_ext"]
default_role = "any"
nitpicky = True
pygments_style = "ansible"
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"
html_copy_source = False
html_show_sphinx = False
html_use_index = False

# Where Ansible's own documentation has what a page refers to. No inventory of it is fetched: the site is built without a network.
ANSIBLE = "https://docs.ansible.com/projects/ansible/latest/"
ELSEWHERE = (
    (r"ansible_collections\.ansible\.builtin\.(\w+)", r"collections/ansible/builtin/\1.html"),
    (r"(ANSIBLE_[A-Z_]+)", r"reference_appendices/config.html#envvar-\1"),
    (r"action_plugins", "plugins/action.html"),
    (r"ansible_configuration_settings", "reference_appendices/config.html"),
    (r"common_return_values", "reference_appendices/common_return_values.html"),
)
README_LINKS = (
    (r"(?<!\[)`vmm\.qemu\.(qemu_\w+)`", r"[`vmm.qemu.\1`](reference/\1_module.rst)"),
    (r"\]\(docs/docsite/rst/(\w+)\.rst\)", r"](reference/docsite/\1.rst)"),
    (r"\]\(roles/(\w+)/README\.md\)", r"](reference/\1_role.rst)"),
    (r"\]\((?=bench/)", f"]({REPOSITORY}/blob/main/"),
)


def toctree(caption: str, entries: list[str]) -> str:
    """Return a table of contents that only the sidebar shows."""
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""])


def pages(app: Sphinx, *kinds: str) -> list[str]:
    """Return the entries of a table of contents for all modules, plugins or roles that have a page."""
    found = [
        (page.stem.removesuffix(f"_{kind}"), page)
        for kind in kinds
        for page in app.srcdir.glob(f"reference/*_{kind}.rst")
    ]
    return [f"{name} <reference/{page.stem}>" for name, page in sorted(found)]


def first_page(app: Sphinx, readme: str) -> str:
    """Return README.md up to what only developers need, with links into the site, and the site's contents."""
    text = readme.partition("\n## Testing\n")[0]
    for link, target in README_LINKS:
        text = re.sub(link, target, text)
    for section in GUIDES:
        text += toctree(section["title"], [f"reference/docsite/{guide}" for guide in section["toctree"]])
    text += toctree("Modules", pages(app, "module"))
    text += toctree("Plugins", pages(app, "connection", "filter", "inventory"))
    text += toctree("Roles", pages(app, "role"))
    return text + toctree("More", ["All of it <reference/index>", "Changelog <reference/changelog>"])


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Make what was written for GitHub and docs.ansible.com fit for this site: pictures and contents are here already."""
    if name == "index":
        source[0] = first_page(app, source[0])
    source[0] = re.sub(r"https://raw\.githubusercontent\.com/[\w-]+/[\w.]+/main/", "/", source[0])
    source[0] = re.sub(r"\.\. contents::\n(   :.*\n)+", "", source[0])
    source[0] = re.sub(r"^Vmm\.Qemu\b", project, source[0], flags=re.MULTILINE)


def elsewhere(_app: Sphinx, _env: Any, node: nodes.Element, shown: nodes.Node) -> nodes.reference | None:
    """Return a link into Ansible's own documentation."""
    for label, path in ELSEWHERE:
        found = re.fullmatch(label, node["reftarget"])
        if found:
            return nodes.reference("", "", shown, internal=False, refuri=ANSIBLE + found.expand(path))
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the above."""
    app.connect("source-read", read)
    app.connect("missing-reference", elsewhere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
