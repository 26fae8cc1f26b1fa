"""Links lead somewhere: between documents, to their sections, and from them into the tree; so do mentions elsewhere."""

import re

import pytest

from support.markdown import ROOT, anchors, documents, headings, links
from support.tracked import tracked

OWN = "deploy/k8s/overlays/own/"  # what a reader makes
MENTION = re.compile(
    r"(?<![\w/.])((?:docs|deploy|examples|protos|scripts|bench)/[\w./-]*\w\.(?:md|py|yaml|sh|proto))(#[\w-]+)?"
)


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("page", documents(), ids=names(documents()))
def test_links_lead_to_files_and_sections_that_exist(page):
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", documents(), ids=names(documents()))
def test_no_two_headings_of_a_page_have_one_anchor(page):
    """Else a link would lead to the first of them."""
    assert len(anchors(page.read_text())) == len(headings(page.read_text()))


def test_files_that_code_manifests_and_documents_mention_exist():
    """Paths from the root, such as docs/guides/serve.md#memory, in any text file of the project."""
    missing = set()
    for path in tracked():
        if path.suffix not in {".md", ".py", ".yaml", ".yml", ".toml", ".sh", ".proto", ".html", ".js", ""}:
            continue
        for name, anchor in MENTION.findall(path.read_text(errors="ignore")):
            target = ROOT / name
            if name.startswith(OWN):
                continue
            if not target.exists() or (anchor and anchor[1:] not in anchors(target.read_text())):
                missing.add((str(path.relative_to(ROOT)), name + anchor))
    assert missing == set()
