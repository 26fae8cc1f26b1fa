"""The public names of the client: each is exported, and each has a docstring."""

import ast
import importlib
import inspect
import pkgutil

import pytest

import onnxserve
from onnxserve import errors

MODULES = ["onnxserve", "onnxserve.errors", "onnxserve.explain", "onnxserve.tensor", "onnxserve.testing"]
GENERATED = "onnxserve.v1"


def definitions(body):
    """Yield name, node and docstring of whatever is defined in the body of a module or a class."""
    for node, following in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node, ast.get_docstring(node)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                match following:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        yield name, node, text
                    case _:
                        yield name, node, None


def tree_of(module):
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def definition(module, name):
    """Return node and docstring of a name, where it is defined."""
    tree = tree_of(module)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(node.module, alias.name)
    return next((node, text) for each, node, text in definitions(tree.body) if each == name)


def undocumented(module):
    """Yield what has no docstring: exported names, and public methods and fields of exported classes."""
    for name in importlib.import_module(module).__all__:
        node, text = definition(module, name)
        if not text:
            yield name
        if isinstance(node, ast.ClassDef):
            yield from (
                f"{name}.{each}" for each, _, text in definitions(node.body) if not each.startswith("_") and not text
            )


def test_these_are_the_public_modules():
    found = {module.name for module in pkgutil.iter_modules(onnxserve.__path__, "onnxserve.")}
    public = {name for name in found if not name.rpartition(".")[2].startswith("_")}
    assert public == {*MODULES[1:], GENERATED}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_exported(module):
    exported = importlib.import_module(module).__all__
    defined = {name for name, _, _ in definitions(tree_of(module).body) if not name.startswith("_")}
    assert defined <= {*exported}
    assert all(hasattr(importlib.import_module(module), name) for name in exported)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    assert [*undocumented(module)] == []
    assert importlib.import_module(module).__doc__


def test_every_exception_is_exported_by_the_package_itself():
    exceptions = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, onnxserve.OnnxserveError)
    }
    assert len(exceptions) == 15
    assert exceptions <= {*onnxserve.__all__}


def test_a_name_without_a_docstring_is_found():
    body = ast.parse("class A:\n    x: int\n    y: int\n    '''Has one.'''\ndef f(): pass\nB = 1").body
    assert [(name, text) for name, _, text in definitions(body)] == [("A", None), ("f", None), ("B", None)]
    assert [(name, text) for name, _, text in definitions(body[0].body)] == [("x", None), ("y", "Has one.")]
