"""The probe: what may be batched is found by trying, and a model that kills its process kills only the probe."""

import contextlib
import resource
import signal
import sys

import onnx
import onnxruntime
import pytest

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime import probe_process as module
from onnxserve_server.runtime.axes import BatchAxes
from onnxserve_server.runtime.prober import ProbeLimits, Prober
from onnxserve_server.runtime.session import SessionOptions
from onnxserve_server.spec import Rows
from support import zoo

OPTIONS = SessionOptions()


@pytest.fixture(scope="module")
def prober():
    with Prober() as prober:
        yield prober


def verdict_of(prober, path, options=OPTIONS):
    return prober.probe(path, options).verdict


@pytest.fixture
def saved(tmp_path):
    def save(model, name="model.onnx"):
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    "model",
    [
        zoo.double(),
        zoo.two_by_two(),
        zoo.mlp(),
        zoo.gather(),
        zoo.sequence(),
        *map(zoo.identity, [1, 2, 6, 8, 9, 10, 11, 13]),
    ],
    ids=lambda model: model.graph.node[-1].op_type,
)
def test_rows_that_do_not_touch_each_other_are_batched(prober, saved, model):
    verdict = verdict_of(prober, saved(model))
    assert (verdict.batchable, verdict.reason) == (True, "")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (zoo.fixed(), "the first axis of input x has the fixed size 4"),
        (zoo.scaled(), "input s is a scalar: it has no batch axis"),
        (zoo.frozen(), "the first axis of output y has the fixed size 1"),
        (zoo.one_row(), "it runs with 1 row but not with 3: "),
        (zoo.mixing(), "a row of its output y depends on the other rows of its batch"),
    ],
    ids=["fixed", "scaled", "frozen", "one_row", "mixing"],
)
def test_others_are_not_and_the_reason_is_given(prober, saved, model, reason):
    verdict = verdict_of(prober, saved(model))
    assert not verdict.batchable
    assert verdict.reason.startswith(reason)


def test_rows_that_meet_are_not_batched_though_none_was_seen_to_change(prober, saved):
    verdict = verdict_of(prober, saved(zoo.slow()))
    assert (verdict.batchable, verdict.rows.rows) == (False, Rows.MEET)
    assert verdict.reason.startswith("its rows meet at node largest: ")
    assert verdict.reason.endswith("; `batching.enabled: true` is right only if they never change each other")


def test_a_recurrent_network_that_takes_steps_first_is_advised_of_its_second_axes(prober, saved):
    model = zoo.steps_first()
    advice = (
        " (in its configuration set `batch_axis: {x: 1, y: 1}` if its rows lie there: along these axes they are proved "
        "independent)"
    )
    found = verdict_of(prober, saved(model))
    assert "node gru" in found.reason
    assert found.reason.endswith(advice)
    assert verdict_of(prober, saved(model), with_axes(batch_axis={"x": 1, "y": 1})).batchable


def with_axes(**axes):
    return SessionOptions(axes=BatchAxes(**axes))


SECOND = {"state": 1, "stateN": 1}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (zoo.layered(), with_axes(batch_axis=SECOND, shared=["scale"])),
        (zoo.columns(8), with_axes(batch_axis={"x": 1, "y": 1})),
        (zoo.suffixed(), with_axes(shared=["suffix"])),
        (zoo.lookup(), with_axes(batch_axis={"id": 1, "y": 1}, shared=["table"])),
        (zoo.weighted(), with_axes(shared=["weight"])),
        (zoo.opaque(), with_axes(batch_axis={"x": 1, "y": 1})),
    ],
    ids=["layered", "columns", "suffixed", "lookup", "weighted", "opaque"],
)
def test_rows_along_another_axis_and_beside_shared_inputs_are_batched(prober, saved, model, options):
    verdict = verdict_of(prober, saved(model), options)
    assert (verdict.batchable, verdict.reason) == (True, "")


ALONG_1 = "`batch_axis: {state: 1}` if its rows lie along axis 1"
SHARED = "`shared: [{}]` if it is the same for all rows"


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (zoo.mixing(1), with_axes(batch_axis={"x": 1, "y": 1}), "a row of its output y depends on the other rows"),
        (
            zoo.columns(1),
            with_axes(batch_axis={"x": 1}),
            "the first axis of output y has the fixed size 2 (in its configuration set "
            "`batch_axis: {y: 1}` if its rows lie along axis 1)",
        ),
        (
            zoo.layered(),
            OPTIONS,
            "the first axis of input state has the fixed size 2 (in its configuration set "
            f"{ALONG_1} or {SHARED.format('state')})",
        ),
        (
            zoo.layered(),
            with_axes(batch_axis=SECOND),
            f"input scale is a scalar: it has no batch axis (in its configuration set {SHARED.format('scale')})",
        ),
        (
            zoo.sequence(),
            with_axes(batch_axis={"x": 1}),
            "the batch axes of its inputs have different names: 'batch', 'seq' "
            "(if the rows of all inputs belong together, export it with one name for these axes)",
        ),
        (
            zoo.opaque(),
            with_axes(batch_axis={"x": 1}),
            "with 3 rows its output y has the shape [2, 3] (in its configuration set "
            "`batch_axis: {y: 1}` if its rows lie along axis 1)",
        ),
        (zoo.sequence(), with_axes(shared=["mask"]), "it runs with 1 row but not with 3: "),
    ],
    ids=["mixing", "output", "state", "scale", "names", "seen in the run", "not the same for all rows"],
)
def test_configured_axes_are_tried_and_others_suggested(prober, saved, model, options, reason):
    verdict = verdict_of(prober, saved(model), options)
    assert (verdict.batchable, verdict.reason[: len(reason)]) == (False, reason)


def test_a_model_of_one_fixed_input_is_not_advised_to_share_it(prober, saved):
    assert verdict_of(prober, saved(zoo.fixed())).reason == "the first axis of input x has the fixed size 4"


def test_an_axis_that_there_is_not_is_an_error_and_the_child_goes_on(prober, saved):
    path = saved(zoo.layered())
    with pytest.raises(
        ConfigurationError,
        match=r"^model\.yaml: batch_axis\.state: axis 0 has the fixed size 2; rows need a free axis$",
    ):
        prober.probe(path, with_axes(file="model.yaml", batch_axis={"state": 0}))
    assert verdict_of(prober, path, with_axes(batch_axis=SECOND, shared=["scale"])).batchable


def test_a_file_that_does_not_load_is_an_error_and_the_child_goes_on(prober, saved, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="cannot load it"):
        prober.probe(tmp_path / "bad.onnx", OPTIONS)
    child = prober._child
    assert verdict_of(prober, saved(zoo.double())).batchable
    assert prober._child is child


crashes = pytest.mark.skipif(
    not onnxruntime.__version__.startswith("1.31."), reason="the fault of onnxruntime 1.31.1 may be mended in this one"
)


@crashes
def test_a_model_that_kills_the_process_is_refused_and_the_next_is_probed(saved):
    path = saved(zoo.crashing())
    with Prober() as prober:
        with pytest.raises(ConfigurationError) as raised:
            prober.probe(path, OPTIONS)
        assert str(raised.value).startswith(
            f"{path}: loading the model ended the process that probes it (killed by signal {signal.SIGSEGV.value})"
        )
        assert verdict_of(prober, saved(zoo.double(), "good.onnx")).batchable


@crashes
def test_it_is_served_at_a_lower_level_of_optimisation(saved):
    with Prober() as prober:
        prober.probe(saved(zoo.crashing()), SessionOptions(graph_optimization="extended"))


@crashes
def test_a_server_says_which_model_it_was_and_does_not_crash(onnxserve, tmp_path):
    root = zoo.write(tmp_path / "models", {"lstm": zoo.crashing()})
    done = onnxserve("serve", "--models", root, "--port", 0, "--http-port", -1, "--providers", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("onnxserve: ")]
    assert f"{root}/lstm/1/model.onnx: loading the model ended the process that probes it" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("raise SystemExit(3)", "exit status 3"),
        ("input(); raise SystemExit(3)", "exit status 3"),
    ],
    ids=["killed", "ended at once", "ended while probing"],
)
def test_the_error_says_how_a_child_ended(saved, monkeypatch, program, how):
    popen = module.subprocess.Popen
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", program], **options)
    )
    with Prober() as prober, pytest.raises(ConfigurationError) as raised:
        prober.probe(saved(zoo.double()), OPTIONS)
    assert how in str(raised.value)


def test_a_model_that_takes_too_long_is_refused_and_the_next_gets_a_new_child(saved, monkeypatch):
    hangs = "import sys; sys.stdin.read()"
    with Prober(ProbeLimits(load=0.2)) as prober:
        with monkeypatch.context() as patched:
            popen = module.subprocess.Popen
            patched.setattr(
                module.subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", hangs], **options)
            )
            path = saved(zoo.double())
            with pytest.raises(
                ConfigurationError, match=r"could not be loaded and tried: it took longer than 0\.2 s$"
            ) as raised:
                prober.probe(path, OPTIONS)
        assert str(raised.value).startswith(f"{path}: ")
        prober._limits = ProbeLimits()
        assert verdict_of(prober, path).batchable


def test_a_process_with_many_descriptors_can_probe(saved):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = saved(zoo.double())
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    try:
        with contextlib.ExitStack() as stack:
            while stack.enter_context(path.open()).fileno() < 1024:
                pass
            assert verdict_of(stack.enter_context(Prober()), path).batchable
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_closing_ends_the_child(saved):
    prober = Prober()
    prober.probe(saved(zoo.double()), OPTIONS)
    child = prober._child
    prober.close()
    assert child.status == 0


def test_a_locale_that_is_missing_comes_with_its_cure(saved, prober):
    lower = onnx.helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="xx_XX.UTF-8")
    text = onnx.TensorProto.STRING
    model = zoo.model([lower], [zoo.tensor("x", ["n"], text)], [zoo.tensor("y", ["m"], text)])
    with pytest.raises(
        ConfigurationError, match=r"name:xx_XX.UTF-8.*; its StringNormalizer .*install it.*lowercase=False"
    ):
        prober.probe(saved(model), OPTIONS)
