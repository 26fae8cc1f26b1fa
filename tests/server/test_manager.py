"""The owner of the models: whatever becomes of a load, its version's status says so and the others go on."""

import threading
import zipfile

import pytest

from onnxserve_server.engine.table import Table
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.discovery import discover
from onnxserve_server.repository.load_status import LoadState
from onnxserve_server.repository.loader import Defaults
from onnxserve_server.repository.manager import ModelManager, Repository
from onnxserve_server.runtime.prober import Prober
from support import zoo
from support.engines import make_services

STATEFUL = "state: [{input: s, output: s_out, initial: s.npy}]"


@pytest.fixture
def root(tmp_path):
    """A model that loads, and one whose initial state is no .npy file."""
    root = zoo.write(tmp_path / "models", {"a": zoo.recurrent(), "b": zoo.double()}, {"a": STATEFUL})
    with zipfile.ZipFile(root / "a" / "s.npy", "w") as archive:
        archive.writestr("s", "")
    return root


@pytest.fixture
def make(root):
    """Make the manager of the repository, and the list that its changes are noted in."""
    managers = []

    def start(**fields):
        changes = []
        repository = Repository(root=root, batching_defaults={}, defaults=Defaults(threads=1), **fields)
        managers.append(ModelManager(repository, Table(), make_services(), changes.append))
        return managers[-1], changes

    yield start
    for manager in managers:
        manager.stop_all()


def states(changes):
    return [(status.model, status.state) for status in changes]


def test_an_initial_state_that_is_no_npy_file_is_refused_by_its_name(make, root):
    manager, changes = make()
    with pytest.raises(ConfigurationError, match=r"state\[0\]\.initial: .*s\.npy: "):
        manager.load_all()
    assert states(changes) == [("a", LoadState.LOADING), ("a", LoadState.FAILED)]


def test_a_load_that_fails_unexpectedly_is_over_and_the_others_are_loaded(make, root, monkeypatch):
    (root / "a" / "s.npy").unlink()
    probe = Prober.probe

    def fail(prober, path, options, **arguments):
        if path.is_relative_to(root / "a"):
            raise OSError(24, "Too many open files")
        return probe(prober, path, options, **arguments)

    monkeypatch.setattr(Prober, "probe", fail)
    manager, changes = make(skip_broken=True)
    manager.load_all()
    assert states(changes) == [
        ("a", LoadState.LOADING),
        ("a", LoadState.FAILED),
        ("b", LoadState.LOADING),
        ("b", LoadState.READY),
    ]
    assert "OSError: [Errno 24] Too many open files" in changes[1].error
    found = next(iter(discover(root, {})))
    with pytest.raises(ConfigurationError, match=f"^{found.path}: "):
        manager.load(found)


def test_a_model_whose_load_ends_after_the_server_has_stopped_is_stopped_too(make, root, monkeypatch):
    manager, changes = make()
    probe = Prober.probe

    def stop_and_probe(*arguments, **options):
        manager.stop_all()
        return probe(*arguments, **options)

    monkeypatch.setattr(Prober, "probe", stop_and_probe)
    *_, found = discover(root, {})
    with pytest.raises(ConfigurationError, match="the server stops"):
        manager.load(found)
    assert states(changes) == [("b", LoadState.LOADING), ("b", LoadState.FAILED)]
    assert not [thread.name for thread in threading.enumerate() if thread.name.endswith("b/1")]
