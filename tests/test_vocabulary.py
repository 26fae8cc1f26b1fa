"""The names that CONTRIBUTING.md gives up are in no code, and its phrases in no text that a user can read."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("client", "server", "converters")
CODE = (*PRODUCT, "bench", "examples", "scripts", "tests")
GENERATED = ROOT / "client/onnxserve/v1"
PAGE = "server/onnxserve_server/web/page"

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
VOCABULARY = re.search(r"^## Vocabulary\n.*?(?=^## |\Z)", CONTRIBUTING, re.MULTILINE | re.DOTALL)[0]

# A row's remark says as what its names are given up, and where; those without one are refused everywhere.
SCOPES = {
    "of observers": ("definition", ("server/onnxserve_server/telemetry",)),
    "(modules)": ("module", ("server",)),
    "(client)": ("definition", ("client",)),
    "(converters)": ("module", ("converters",)),
}
ANYWHERE = ("any", CODE)

PHRASES = [
    r"\bin hand\b",
    r"\b[Ss]ee to it that\b",
    r"\b(?:[Hh]ave|[Hh]as) run what\b",
    r"\bmust be as\b",
    r"\bthat is \w+ which\b",
    r"\bhas no (?:input|output)s? ['\"`…]",  # unknown input 'x'; the model's inputs are ...
    # X is not a Y
    r"(?<![Tt]here )\b(?:is|are|was|were) no (?!(?:longer|more|fewer|less|better|worse|different|difference)\b)",
]


def rows():
    """Give the cells of the table of what was given up."""
    table = VOCABULARY.split("### Words that were given up")[1].split("###")[0]
    for line in table.splitlines():
        if line.startswith("|") and not line.startswith(("| not", "| ---")):
            yield line.split("|")[1].strip()


def given_up():
    """Return patterns of whole names, by what they name and where."""
    names = {}
    for cell in rows():
        remark = next((remark for remark in SCOPES if cell.endswith(remark)), "")
        words = cell.removesuffix(remark).replace("`", "").split(",")
        single = [word.strip(" _=") for word in words if " " not in word.strip()]
        names.setdefault(SCOPES.get(remark, ANYWHERE), []).extend(re.sub("_X$", "_[A-Z0-9_]+", name) for name in single)
    return names


def identifiers(tree):
    """Give every identifier of a syntax tree with its line, and what it names."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, line, "definition"
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name, line, "other"
            case ast.alias(name=name, asname=other):
                yield from ((part, line, "other") for part in (*name.split("."), other or name))
            case ast.ImportFrom(module=str(module)):
                yield from ((part, line, "other") for part in module.split("."))
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, line, "other"


def names_in(source, kind, patterns):
    """Return the identifiers of one file that match a pattern, as "line: name"; of any kind, or of one."""
    refused = re.compile("|".join(patterns))
    return [
        f"{line}: {name}"
        for name, line, named in identifiers(ast.parse(source))
        if kind in ("any", named) and refused.fullmatch(name.strip("_"))
    ]


def texts(source):
    """Give the string literals of a file with their lines; what is filled in, as an ellipsis."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield "".join(map(str, parts)), node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value, node.lineno


def phrases_in(text):
    """Return the phrases of a text that were given up, with the words around them."""
    text = " ".join(text.split())
    found = [match for phrase in PHRASES for match in re.finditer(phrase, text)]
    return [text[max(0, match.start() - 30) : match.end() + 30] for match in found]


def python_files(*roots):
    files = [path for root in roots for path in sorted((ROOT / root).rglob("*.py"))]
    return [path for path in files if GENERATED not in path.parents]


def pages():
    """Give the documents and the status page; of CONTRIBUTING.md, all but what it says about words."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]:
        yield path, path.read_text().replace(VOCABULARY, "")
    for path in sorted((ROOT / PAGE).glob("*")):
        if path.suffix in {".html", ".js"}:
            yield path, path.read_text()


@pytest.mark.parametrize("root", CODE)
def test_no_code_has_a_name_that_was_given_up(root):
    found = [
        f"{path.relative_to(ROOT)}:{name}"
        for (kind, roots), patterns in given_up().items()
        if kind != "module"
        for path in python_files(*roots)
        if path.is_relative_to(ROOT / root)
        for name in names_in(path.read_text(), kind, patterns)
    ]
    assert not found, "\n".join(found)


def test_no_module_has_a_name_that_was_given_up():
    found = [
        str(path.relative_to(ROOT))
        for (kind, roots), names in given_up().items()
        if kind == "module"
        for path in python_files(*roots)
        if path.stem in names
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("root", PRODUCT)
def test_no_message_has_a_phrase_that_was_given_up(root):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {phrase}"
        for path in python_files(root)
        for text, line in texts(path.read_text())
        for phrase in phrases_in(text)
    ]
    assert not found, "\n".join(found)


def test_no_document_has_a_phrase_that_was_given_up():
    found = [f"{path.relative_to(ROOT)}: {phrase}" for path, text in pages() for phrase in phrases_in(text)]
    assert not found, "\n".join(found)


def test_the_table_is_read():
    (anywhere,) = [names for scope, names in given_up().items() if scope == ANYWHERE]
    assert {"told", "MOST_[A-Z0-9_]+", "most", "InHand", "rouse", "Door"} <= set(anywhere)
    assert {"proof", "trial"} <= set(given_up()[SCOPES["(converters)"]])
    assert "in hand" not in anywhere


@pytest.mark.parametrize(
    "source",
    [
        "told = 1",
        "def f(told): ...",
        "f(told=1)",
        "a.told",
        "import a.told",
        "from a import told",
        "from told import a",
        "class _MOST_THINGS: ...",
        "_LONGEST_NAME = 3",
        "def f(*, most): ...",
        "f'{told}'",
        "try: ...\nexcept E as told: ...",
    ],
)
def test_a_name_is_found_wherever_it_stands(source):
    assert names_in(source, "any", given_up()[ANYWHERE])


@pytest.mark.parametrize("source", ["'told'", "# told", "retold = 1", "almost = 1", "MOST = 2", "placed = Placement()"])
def test_other_names_and_prose_are_left_alone(source):
    assert names_in(source, "any", given_up()[ANYWHERE]) == []


def test_a_name_of_one_kind_is_none_of_another():
    assert names_in("def ended(self): ...", "definition", ["ended"]) == ["1: ended"]
    assert names_in("ended = 1", "definition", ["ended"]) == []


@pytest.mark.parametrize(
    "text",
    [
        "it is no JSON",
        "GET is no\n  way",
        "requests in hand",
        "See to it that",
        "must be as http://a",
        "has no input 'x'",
    ],
)
def test_a_phrase_is_found(text):
    assert phrases_in(text)


@pytest.mark.parametrize(
    "text", ["there is no server", "it is no longer than that", "is not JSON", "beforehand", "in handy"]
)
def test_plain_english_is_left_alone(text):
    assert phrases_in(text) == []


def test_the_text_of_a_message_is_read_with_its_gaps():
    assert list(texts("raise E(f'the model has no input {name!r}')")) == [("the model has no input …", 1)]
    assert phrases_in("the model has no input …")
