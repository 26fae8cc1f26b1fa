"""Who may import whom, read from the sources."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import onnxserve_server

ROOT = Path(onnxserve_server.__file__).parent
FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}

# Each layer, and those of our own that it may import, from the top down. The nouns, at the end, everybody may.
LAYERS = {
    "edge": {"engine"},
    "web": {"telemetry", "repository", "engine"},
    "telemetry": {"repository", "engine", "scheduling", "runtime"},
    "repository": {"engine", "scheduling", "runtime"},
    "engine": {"scheduling", "runtime"},
    "scheduling": {"runtime"},
    "runtime": {"rows"},
    "rows": set(),
    "observing": {"core", "spec", "errors"},
    "core": {"spec", "errors"},
    "spec": set(),
    "errors": set(),
}
WIRING = {"app", "commands", "doctor", "settings", "signals", "sockets"}
NOUNS = {"core", "errors", "observing", "spec"}


def imports(name, *, for_types=True):
    """The full names of all that a file imports, wherever in it: modules, and what is taken from them."""
    tree = ast.parse(FILES[name].read_text())
    if not for_types:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name):
    """The layer, or the module at the top, that a file belongs to."""
    return name.partition("/")[0].removesuffix(".py")


def who_imports(library):
    return {
        name for name in FILES if any(found == library or found.startswith(library + ".") for found in imports(name))
    }


def test_only_the_edge_knows_grpc():
    users = {name for library in ("grpc", "grpc_health", "grpc_reflection") for name in who_imports(library)}
    assert {part(name) for name in users} == {"edge"}


def test_only_the_runtime_knows_onnxruntime():
    assert {part(name) for name in who_imports("onnxruntime")} == {"runtime"}


def test_only_the_analysis_of_rows_knows_onnx():
    assert {part(name) for name in who_imports("onnx")} == {"rows"}


def test_the_serving_process_does_not_load_onnx():
    program = "import sys, onnxserve_server.app, onnxserve_server.runtime.prober; print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_only_telemetry_knows_opentelemetry():
    assert {part(name) for name in who_imports("opentelemetry")} == {"telemetry"}


def test_no_module_imports_itself_by_a_detour():
    modules = {f"onnxserve_server.{name.removesuffix('.py').replace('/', '.')}": name for name in FILES}
    graph = {
        module: {
            other
            for found in imports(name, for_types=False)
            for other in (found, found.rpartition(".")[0])
            if other in modules and other != module
        }
        for module, name in modules.items()
    }
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(modules)


def test_only_the_lane_knows_what_is_private_in_grpc():
    assert who_imports("grpc._cython") == {"edge/lane.py"}
    private = {name for name in FILES if "_cy_server" in FILES[name].read_text() or "cygrpc" in FILES[name].read_text()}
    assert private == {"edge/lane.py"}


def test_every_part_of_the_server_has_its_place_here():
    assert {part(name) for name in FILES} == LAYERS.keys() | WIRING | {"__init__"}


@pytest.mark.parametrize("name", [name for name in FILES if part(name) in LAYERS])
def test_a_layer_imports_only_what_lies_below(name):
    own = {found.split(".")[1] for found in imports(name) if found.startswith("onnxserve_server.")}
    nouns = set() if part(name) in NOUNS else NOUNS
    assert own <= LAYERS[part(name)] | nouns | {part(name)}


@pytest.mark.parametrize("name", FILES)
def test_nobody_imports_the_wiring_but_the_wiring(name):
    own = {found.split(".")[1] for found in imports(name) if found.startswith("onnxserve_server.")}
    if part(name) not in WIRING:
        assert not own & WIRING


def test_the_client_knows_nothing_of_the_server():
    client = ROOT.parent.parent / "client" / "onnxserve"
    text = "".join(path.read_text() for path in client.rglob("*.py"))
    assert "import onnxserve_server" not in text
    assert "from onnxserve_server" not in text
