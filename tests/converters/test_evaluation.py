import numpy as np
import onnx
import pytest
from onnx import helper

from onnxserve_converters.cases import Cases
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.evaluation import Evaluator
from onnxserve_converters.inputs import InputSpec
from support import zoo

COLUMNS = {"logits": [-4.0, -0.1, 0.2, 3.0], "probabilities": [0.1, 0.4, 0.6, 0.9]}


@pytest.fixture
def accuracy(tmp_path):
    """Score y = x, on samples x with the right classes."""

    def score(x, right):
        shape = ["batch", *x.shape[1:]]
        dtype = helper.np_dtype_to_tensor_dtype(x.dtype)
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        made = zoo.model(nodes, [zoo.tensor("x", shape, dtype)], [zoo.tensor("y", shape, dtype)])
        onnx.save(made, tmp_path / "model.onnx")
        dtype_name = "string" if x.dtype == object else x.dtype.name
        cases = Cases([InputSpec("x", dtype_name, tuple(shape))], {}, {}, {"x": x})
        evaluator = Evaluator(references=[], tolerances={}, cases=cases, right=np.asarray(right))
        return evaluator.evaluate(tmp_path / "model.onnx").accuracy

    return score


def test_of_several_values_the_largest_is_the_class(accuracy):
    assert accuracy(np.eye(4, dtype=np.float32), [0, 1, 2, 0]) == 0.75


@pytest.mark.parametrize("kind", COLUMNS)
def test_one_value_says_its_class_by_its_side(accuracy, kind):
    assert accuracy(np.float32(COLUMNS[kind])[:, None], [0, 0, 1, 1]) == 1


def test_whole_numbers_and_strings_are_classes(accuracy):
    assert accuracy(np.array([7, 8, 9]), [7, 8, 0]) == pytest.approx(2 / 3)
    assert accuracy(np.array(["cat", "dog"], object), np.array(["cat", "dog"], object)) == 1


def test_every_sample_counts_beyond_the_largest_batch(accuracy):
    scores = np.zeros((100, 2), np.float32)
    scores[:70, 1] = 1
    assert accuracy(scores, np.ones(100, int)) == 0.7


@pytest.mark.parametrize("right", [np.zeros((4, 2), int), np.array(["a", "b", "c", "d"], object)])
def test_labels_that_the_output_cannot_say_are_refused(accuracy, right):
    with pytest.raises(BadRequest, match="does not fit the classes of the first output"):
        accuracy(np.eye(4, dtype=np.float32), right)
