"""The site builds without a warning, and is complete in itself: neither build nor pages fetch anything."""

import html
import html.parser
import importlib.util
import os
import re
import subprocess
import sys

import pytest
from docs_reference import model_keys

from support.markdown import ROOT
from support.packages import public_modules, public_names

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None,
    reason="mkdocs is not installed: pip install --group docs",
)


class Fetched(html.parser.HTMLParser):
    """Addresses of what a browser fetches with a page, and the names of its anchors."""

    def __init__(self):
        super().__init__()
        self.addresses, self.names = [], set()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.names.add(attributes.get("id"))
        if tag in {"script", "img", "iframe", "source"}:
            self.addresses.append(attributes.get("src") or "")
        if tag == "link" and attributes.get("rel") not in {"canonical", "prev", "next"}:
            self.addresses.append(attributes["href"])


def read(page):
    fetched = Fetched()
    fetched.feed(page.read_text())
    return fetched


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, made without a network: a proxy that is not there takes all requests."""
    target = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", target],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return target


def test_every_page_is_built(site):
    sources = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")} - sources == {
        (site / "404").relative_to(site)
    }
    assert all((site / source).with_suffix(".html").is_file() for source in sources)


def test_no_page_fetches_anything_from_elsewhere(site):
    fetched = [address for page in site.rglob("*.html") for address in read(page).addresses]
    assert fetched
    assert [address for address in fetched if "//" in address] == []


def test_no_place_of_a_table_is_left_empty(site):
    assert not [page for page in site.rglob("*.html") if "<!-- reference:" in page.read_text()]


@pytest.mark.parametrize("module", public_modules())
def test_every_public_name_has_an_entry_in_the_reference(site, module):
    names = read(site / "reference/sdk.html").names
    assert {f"{module}.{name}" for name in public_names(module)} <= names


def test_each_alert_leads_to_its_section(site):
    names = read(site / "runbook.html").names
    assert {"onnxserveunavailable", "onnxservewastedcompute"} <= names


def test_the_meanings_of_a_table_arrive_whole(site):
    text = " ".join(html.unescape(re.sub("<[^>]+>", "", (site / "reference/model-yaml.html").read_text())).split())
    assert [key for key, field in model_keys() if (field.description or "").replace("`", "") not in text] == []
