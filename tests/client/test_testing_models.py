"""Models of onnxserve.testing: how they are described, and those with a state."""

import numpy as np
import pytest

import onnxserve
from onnxserve import testing
from support.functions import X, double


class Counter:
    """Adds up what it is given."""

    def __init__(self):
        self.total = 0.0

    def __call__(self, inputs):
        self.total += inputs["n"].item()
        return {"total": np.array([self.total]), "next": inputs["n"] - 1}


def test_the_server_describes_its_models(serve_functions, either):
    spec = onnxserve.TensorSpec(name="x", dtype="float32", shape=("batch", None, 3), labels=("a", "b", "c"))
    scalar = onnxserve.TensorSpec(name="s", dtype="string", shape=(), labels=(), batch_axis=None)
    described = testing.Model(
        function=double, version="3", inputs=[spec, scalar], outputs=[spec], max_rows=8, metadata={"author": "me"}
    )
    client = either.connect(serve_functions({"plain": double, "described": described}).target)
    info, plain = client.models()
    assert info == client.model("described") == client.model("described", "3")
    assert (info.name, info.version, info.state, info.metadata) == ("described", "3", "READY", {"author": "me"})
    assert (info.inputs, info.outputs) == ((spec, scalar), (spec,))
    assert (info.batching.enabled, info.batching.max_rows) == (True, 8)
    assert (plain.inputs, plain.batching.enabled) == ((), False)
    with pytest.raises(onnxserve.NotFound):
        client.model("described", "4")


def test_the_server_is_ready_and_so_are_its_models(serve_functions, either):
    client = either.connect(serve_functions({"double": double}).target)
    assert client.ready()
    assert client.ready("double")
    assert not client.ready("triple")


def test_a_sequence_has_a_state_of_its_own(serve_functions, either):
    client = either.connect(serve_functions({"counter": testing.Model(sequence=Counter)}).target)
    with client.sequence("counter") as one, client.sequence("counter") as other:
        assert [one.step({"n": np.array([n])})["total"].item() for n in (1, 2, 3)] == [1, 3, 6]
        assert other.step({"n": np.array([5])})["total"].item() == 5
    assert client.predict("counter", {"n": np.array([9])})["total"].item() == 9


def test_a_generation_feeds_outputs_back(serve_functions, either):
    model = testing.Model(sequence=Counter, feedback={"next": "n"})
    client = either.connect(serve_functions({"counter": model}).target)
    answers = client.generate("counter", {"n": np.array([5])}, max_steps=3)
    assert [answer["total"].item() for answer in answers] == [5, 9, 12]
    answers = client.generate("counter", {"n": np.array([3])}, max_steps=100, stop=onnxserve.Stop("next", 1))
    assert [answer["next"].item() for answer in answers] == [2, 1]
    with pytest.raises(onnxserve.InvalidArgument, match=r"steps\.max"):
        list(client.generate("counter", {"n": np.array([3])}, max_steps=0))
    with pytest.raises(onnxserve.InvalidArgument, match=r"steps\.stop\.output: .* outputs are 'total', 'next'"):
        list(client.generate("counter", {"n": np.array([3])}, max_steps=9, stop=onnxserve.Stop("nothing")))


def test_a_generation_that_is_broken_off_leaves_the_sequence_usable(serve_functions, either):
    model = testing.Model(sequence=Counter, feedback={"next": "n"})
    client = either.connect(serve_functions({"counter": model}).target)
    with client.sequence("counter") as sequence:
        answers = sequence.generate({"n": np.array([5])}, max_steps=5)
        assert next(answers)["next"].item() == 4
        answers.close()
        assert sequence.step({"n": np.array([7])})["next"].item() == 6


def test_what_a_function_without_state_cannot_do_is_said(serve_functions, either):
    client = either.connect(serve_functions({"double": double, "counter": testing.Model(sequence=Counter)}).target)
    with client.sequence("double") as stateless, client.sequence("counter") as counter:
        with pytest.raises(onnxserve.InvalidArgument, match="model 'double' has no state"):
            stateless.step(X)
        with pytest.raises(onnxserve.InvalidArgument, match="no snapshots"):
            counter.step({"n": np.array([1])}, snapshot=True)
    with pytest.raises(ValueError, match="either a function or a sequence"):
        testing.Model()
