"""Additions to mkdocs for this site: sections of other files, links out of docs/, and a check of docstrings."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
INCLUDE = re.compile(r"<!-- include (\S+)(?: (#+ .+?))? -->")
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)]*)?\))")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def on_pre_build(config: Any) -> None:
    """Stop the build if a public definition has no docstring."""
    missing = []
    for path in sorted((REPOSITORY / "superpoint_jax").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [node for node in tree.body if not getattr(node, "name", "_").startswith("_")]
        inner = [node for scope in public if isinstance(scope, ast.ClassDef) for node in scope.body]
        nodes = [node for node in (*public, *inner) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        names = [node.name for node in nodes if not node.name.startswith("_") and not ast.get_docstring(node)]
        missing += [f"{path.relative_to(REPOSITORY)}: {name}" for name in names]
    if missing:
        raise PluginError("public names without a docstring:\n" + "\n".join(missing))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The page with its includes and links resolved; files of the repository outside docs/ are copied into the site."""
    folder = (DOCS / page.file.src_uri).parent
    markdown = _outside_code(markdown, lambda text: _links(text, folder, folder, config, files))

    def included(found: re.Match[str]) -> str:
        path = (folder / found[1]).resolve()
        text = path.read_text(encoding="utf-8")
        text = _section(text, found[2]) if found[2] else re.sub(r"^# ", "## ", text)
        return _outside_code(text, lambda part: _links(part, path.parent, folder, config, files))

    return INCLUDE.sub(included, markdown)


def _section(text: str, heading: str) -> str:
    level = heading.split(" ")[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.DOTALL | re.MULTILINE)
    if not found:
        raise PluginError(f"no section {heading!r} to include")
    return found[1]


def _outside_code(text: str, change: Any) -> str:
    parts, last = [], 0
    for code in CODE.finditer(text):
        parts += [change(text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, change(text[last:])])


def _links(text: str, source: Path, page_folder: Path, config: Any, files: Files) -> str:
    def replaced(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = Path(os.path.normpath(source / target))
        if not path.exists():
            raise PluginError(f"dead link in {source.name}: {target}")
        if path.is_dir() or DOCS in path.parents:
            uri = path
        else:
            name = "repository/" + path.relative_to(REPOSITORY).as_posix()
            if name.endswith(".md"):
                name += ".txt"  # Otherwise it would become a page.
            if files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(path)))
            uri = DOCS / name
        if path.is_dir():
            raise PluginError(f"a link to a folder: {target}; link to a file instead")
        return found[1] + os.path.relpath(uri, page_folder).replace(os.sep, "/") + found[3]

    return LINK.sub(replaced, text)
