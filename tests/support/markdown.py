"""Markdown as the documents have it: headings, links, blocks, and the shell commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documents():
    """Every Markdown file of the project."""
    patterns = ("*.md", "docs/**/*.md", "examples/**/*.md", "deploy/**/*.md", ".github/**/*.md")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def headings(text):
    """The headings of a page, without their marks."""
    return re.findall(r"^#+ (.+?) *$", _FENCE.sub("", text), re.MULTILINE)


def anchors(text):
    """The anchors of a page's headings, by the rules that GitHub and mkdocs share."""
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings(text)}


def links(text):
    """The targets of links and pictures that are inside the project, as they are written."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'<img src="([^"]+)"', prose)
    return [target for target in targets if "://" not in target]


def blocks(text, language):
    """The contents of a page's fenced blocks in a language."""
    return [content for name, content in _FENCE.findall(text) if name == language]


@dataclass(frozen=True)
class Command:
    """A command that a page shows.

    Attributes:
        page: the file.
        text: the command, on one line, without its comment.
    """

    page: Path
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}: {self.text}"


def commands(page):
    """The commands of a page: in its console blocks, what follows a dollar sign, to the end of the shell command."""
    for block in blocks(page.read_text(), "console"):
        lines = iter(block.splitlines())
        for line in lines:
            if line.startswith("$ "):
                text = line.removeprefix("$ ")
                while text.endswith("\\") or _is_open(text):
                    text = text.removesuffix("\\").rstrip() + " " + next(lines).strip()
                yield Command(page, re.sub(r"\s+# .*$", "", text))


def _is_open(text):
    """Whether a quotation goes on after a line."""
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False
