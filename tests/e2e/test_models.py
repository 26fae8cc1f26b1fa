"""What a server says of its models."""

import json

import onnx
import pytest

from onnxserve import NotFound, OnnxserveError
from support import zoo


def labelled(description="", **metadata):
    made = zoo.double()
    made.doc_string = description
    made.graph.doc_string = "of the graph"
    onnx.helper.set_model_props(made, metadata)
    return made


@pytest.fixture(scope="module", params=["lane", "plain"])
def client(request, serving, tmp_path_factory):
    models = {
        "double": zoo.double(),
        "fixed": zoo.fixed(),
        "frozen": zoo.frozen(),
        "one_row": zoo.one_row(),
        "mixing": zoo.mixing(),
        "off": zoo.double(),
        "labelled": labelled("Twice as much.", labels=json.dumps({"y": ["a", "b", "c"]}), author="us"),
        "overruled": labelled(labels=json.dumps({"y": ["a", "b", "c"]})),
        "other_labels": labelled(labels="cat,dog"),
        "no_unicode": labelled(labels='{"y": ["\\ud800"]}'),
        "two": zoo.two_by_two(),
        "sequence": zoo.sequence(),
    }
    configs = {
        "overruled": "labels: {y: [d, e, f]}",
        "off": "batching: {enabled: false}",
        "two": "{versions: all, instances: 2, threads: 3, "
        "batching: {max_rows: 16, max_delay_us: 500, max_queue_rows: 99}}",
    }
    root = zoo.write(tmp_path_factory.mktemp("models"), models, configs)
    for version in ("9", "10"):
        folder = root / "two" / version
        folder.mkdir()
        onnx.save(zoo.two_by_two(), folder / "model.onnx")
    with serving(root, edge=request.param, max_queue_bytes=12345) as server:
        yield server.client


def test_every_version_of_every_model_is_listed_oldest_first(client):
    assert [(model.name, model.version) for model in client.models()] == [
        ("double", "1"),
        ("fixed", "1"),
        ("frozen", "1"),
        ("labelled", "1"),
        ("mixing", "1"),
        ("no_unicode", "1"),
        ("off", "1"),
        ("one_row", "1"),
        ("other_labels", "1"),
        ("overruled", "1"),
        ("sequence", "1"),
        ("two", "1"),
        ("two", "9"),
        ("two", "10"),
    ]
    assert {model.state for model in client.models()} == {"READY"}


def test_a_model_without_a_version_is_its_newest(client):
    assert client.model("two").version == "10"
    assert client.model("two", "9").version == "9"
    assert client.model("two", "9") in client.models()


def test_inputs_and_outputs_have_names_types_and_axes(client):
    model = client.model("two")
    assert [(spec.name, spec.dtype, spec.shape) for spec in model.inputs] == [
        ("a", "float32", ("batch", 2)),
        ("b", "int64", ("batch", 3)),
    ]
    assert [(spec.name, spec.dtype, spec.shape) for spec in model.outputs] == [
        ("p", "float32", ("batch", 2)),
        ("q", "int64", ("batch", 3)),
    ]
    assert [spec.shape for spec in client.model("sequence").inputs] == [("batch", "seq"), ("batch", "seq")]
    assert client.model("fixed").inputs[0].shape == (4, 3)


def test_how_it_is_batched_and_run_is_told(client):
    model = client.model("two")
    batching, runtime = model.batching, model.runtime
    assert (batching.enabled, batching.reason) == (True, "")
    assert (batching.max_rows, batching.max_delay_us) == (16, 500)
    assert (batching.max_queue_rows, batching.max_queue_bytes) == (99, 12345)  # of model.yaml, of the server's settings
    assert (runtime.instances, runtime.threads) == (2, 3)
    assert runtime.requested_providers == runtime.providers == ("CPUExecutionProvider",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fixed", "the first axis of input x has the fixed size 4"),
        ("frozen", "the first axis of output y has the fixed size 1"),
        ("one_row", "it runs with 1 row but not with 3"),
        ("mixing", "a row of its output y depends on the other rows of its batch"),
        ("off", "model.yaml says so"),
    ],
)
def test_why_a_model_is_not_batched_is_told(client, name, reason):
    batching = client.model(name).batching
    assert not batching.enabled
    assert batching.reason.startswith(reason)
    assert batching.max_rows == 1


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("labelled", ("a", "b", "c")),
        ("overruled", ("d", "e", "f")),
        ("other_labels", ()),
        ("no_unicode", ()),
        ("double", ()),
    ],
)
def test_labels_come_from_model_yaml_else_from_the_metadata(client, name, labels):
    assert client.model(name).outputs[0].labels == labels


def test_metadata_and_description_are_the_files(client):
    assert client.model("labelled").metadata == {"author": "us"}  # the labels are with the output
    assert client.model("labelled").description == "Twice as much."
    assert client.model("other_labels").metadata == {"labels": "cat,dog"}


@pytest.mark.parametrize(
    ("arguments", "resource"), [(("nope",), "nope"), (("double", "2"), "double/2"), (("two", "1 "), "two/1 ")]
)
def test_what_is_not_there_is_not_found_and_named(client, arguments, resource):
    with pytest.raises(NotFound) as raised:
        client.model(*arguments)
    assert (raised.value.resource, raised.value.reason) == (resource, "MODEL_NOT_FOUND")


def test_a_model_without_a_name_is_a_bad_request(client):
    with pytest.raises(OnnxserveError) as raised:
        client.model("")
    assert [violation.field for violation in raised.value.violations] == ["model"]
