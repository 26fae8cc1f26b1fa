"""What mkdocs asks while it builds the site: tables of the reference, and links to files that are outside docs/."""

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from docs_reference import TABLES  # noqa: E402 - mkdocs loads this file by its path

_TABLE = re.compile(r"^<!-- reference: ([a-z-]+) -->$", re.MULTILINE)
_SECTION = re.compile(r"^##+ ", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?!https?:|#)[^)#]+)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return a page's Markdown with what belongs into it."""
    folder = Path(page.file.abs_src_path).parent
    filled = _TABLE.sub(lambda found: TABLES[found[1]](), markdown)
    if len(_SECTION.findall(filled)) < 2:
        page.meta["hide"] = ["toc"]  # its column is room for tables and diagrams
    return _LINK.sub(lambda found: _link(found[1], found[2], folder, config), filled)


def _link(text: str, target: str, folder: Path, config: Any) -> str:
    """Return a link as it is, and one that leaves docs/ to the repository, or as text where that has no address."""
    path = Path(os.path.normpath(folder / target))
    if path.is_relative_to(config.docs_dir):
        return f"[{text}]({target})"
    inside = path.relative_to(ROOT).as_posix()
    return f"[{text}]({config.repo_url}/blob/HEAD/{inside})" if config.repo_url else text
