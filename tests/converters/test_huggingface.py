"""Directories of Hugging Face models: what they take, give and refuse, and their conversions by one command."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.sources.detection import detect_kind, load_source
from onnxserve_converters.sources.huggingface_folder import read_folder
from onnxserve_converters.sources.huggingface_inputs import Images, Texts
from support.converting import convert, request, same
from support.transformers_models import MODELS, model

OUTPUTS = {
    "BERT": ["logits"], "DistilBERT": ["logits"], "RoBERTa": ["start_logits", "end_logits"], "ALBERT": ["logits"],
    "MPNet": ["last_hidden_state", "pooler_output"], "T5 encoder": ["last_hidden_state"], "GPT-2": ["logits"],
    "Llama": ["logits"], "ViT": ["logits"],
    "CLIP": ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
    "Whisper encoder": ["last_hidden_state"], "Wav2Vec2": ["logits"],
}  # fmt: skip
IN_MAKE_TEST = ("BERT", "ViT")


@pytest.fixture
def saved(tmp_path):
    """Save a model, with changes to its config.json and more files; return its directory."""

    def save(name, *, config=None, files=None, **options):
        folder = tmp_path / "saved"
        model(name).save_pretrained(folder, **options)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
        for file, content in (files or {}).items():
            (folder / file).write_text(json.dumps(content))
        return folder

    return save


def loaded(folder, *inputs, **options):
    return load_source(request(folder, *inputs, **options))[1]


def names(specs):
    return [spec.name for spec in specs]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_MAKE_TEST else pytest.mark.slow) for name in MODELS]
)
def test_an_architecture_is_converted_by_its_directory_alone(saved, tmp_path, name):
    folder = saved(name)
    done = convert(folder, tmp_path / "models" / "net")
    session = onnxruntime.InferenceSession(done.path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == OUTPUTS[name]
    own = loaded(folder)
    sizes = {axis: 11 if axis in ("time", "images") else 5 for spec in own.inputs for axis in spec.shape}
    sizes["samples"] = 401  # none of these was exported with
    feeds = own.drawer.draw(sizes, np.random.default_rng(7))
    for got, wanted in zip(session.run(None, feeds), own.run(feeds).values(), strict=True):
        assert same(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "output"), [("feature-extraction", "text_embeds"), ("image-feature-extraction", "image_embeds")]
)
def test_each_tower_of_a_model_of_texts_and_images_is_a_model(saved, tmp_path, task, output):
    done = convert(saved("CLIP"), tmp_path / "models" / "tower", task=task)
    assert done.report["model"]["outputs"][output]["shape"] == ["batch", 16]


def test_masked_texts_are_padded_after_their_end(saved):
    folder = saved("BERT", config={"eos_token_id": 7})
    texts = Texts(read_folder(folder), loaded(folder)._runs.model.config, {"attention_mask", "token_type_ids"})
    drawn = texts.draw((50, 9), np.random.default_rng(0))
    lengths = drawn["attention_mask"].sum(axis=1)
    assert lengths.min() == 1 and lengths.max() == 9
    assert (drawn["attention_mask"] == (np.arange(9) < lengths[:, None])).all()
    assert (drawn["input_ids"][np.arange(50), lengths - 1] == 7).all() and (drawn["input_ids"] < 99).all()
    assert (drawn["input_ids"][drawn["attention_mask"] == 0] == 0).all()
    assert (drawn["token_type_ids"] <= drawn["attention_mask"]).all() and drawn["token_type_ids"].any()


def test_texts_are_padded_on_the_left_where_the_tokenizer_does(saved):
    folder = saved(
        "Llama",
        config={"pad_token_id": 5, "eos_token_id": 7},
        files={"tokenizer_config.json": {"padding_side": "left"}},
    )
    drawn = loaded(folder).drawer.draw({"batch": 50, "time": 9}, np.random.default_rng(0))
    lengths = drawn["attention_mask"].sum(axis=1)
    assert (drawn["attention_mask"] == (np.arange(9) >= 9 - lengths[:, None])).all()
    assert (drawn["input_ids"][:, -1] == 7).all() and (drawn["input_ids"][drawn["attention_mask"] == 0] == 5).all()


def test_images_have_the_size_and_the_range_of_the_preprocessor(saved):
    processor = {"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.25, 0], "image_std": [0.5, 0.25, 1]}
    images = Images(
        read_folder(saved("ViT", files={"preprocessor_config.json": processor})), model("ViT").config, False
    )
    (pixels,) = images.draw((4, 3, 32, 32), np.random.default_rng(0)).values()
    assert [np.round(pixels[:, c].min(), 2) for c in range(3)] == [-1, -1, 0]
    assert [np.round(pixels[:, c].max(), 2) for c in range(3)] == [1, 3, 1]


def test_an_axis_that_the_caller_names_is_named_in_every_input(saved):
    inputs = loaded(saved("BERT"), "input_ids=int64[batch,16]").inputs
    assert [spec.shape for spec in inputs] == [("batch", 16)] * 3


def test_labels_and_inputs_are_those_of_the_configuration(saved):
    own = loaded(saved("BERT"))
    assert own.labels == {"logits": ["bad", "fair", "good"]}
    assert names(own.inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    assert names(loaded(saved("RoBERTa")).inputs) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("options", [{"safe_serialization": True}, {"max_shard_size": "20KB"}], ids=["whole", "shards"])
def test_tied_weights_and_shards_are_read_as_they_were_saved(saved, options):
    own = loaded(saved("Llama", **options))
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        wanted = model("Llama")(ids, use_cache=False).logits.numpy()
    got = own.run({"input_ids": ids.numpy(), "attention_mask": np.ones((1, 3), np.int64)})
    assert list(got) == ["logits"] and same(got["logits"], wanted)


def test_pickled_weights_are_read_without_their_code(saved):
    folder = saved("BERT")
    (folder / "model.safetensors").unlink()
    torch.save(model("BERT").state_dict(), folder / "pytorch_model.bin")
    assert names(loaded(folder).inputs)[0] == "input_ids"
    torch.save({"weight": print}, folder / "pytorch_model.bin")
    with pytest.raises(BadRequest, match="transformers cannot load"):
        loaded(folder)


def test_files_of_tokenizer_and_preprocessor_belong_to_the_model(saved):
    folder = saved(
        "BERT", files={"tokenizer.json": {}, "vocab.txt": {}, "notes.txt": {}, "preprocessor_config.json": {}}
    )
    assert set(read_folder(folder).assets()) == {
        "config.json",
        "tokenizer.json",
        "vocab.txt",
        "preprocessor_config.json",
    }


@pytest.mark.parametrize(
    ("config", "task", "message"),
    [
        ({"auto_map": {"AutoModel": "own.Model"}}, None, "auto_map names code.*never run.*import its class"),
        ({"quantization_config": {"quant_method": "gptq"}}, None, "quantized.*--quantize dynamic"),
        ({"architectures": ["BertForMars"]}, None, "architecture BertForMars.*--task"),
        ({"model_type": "mars"}, None, "cannot read config.json.*update transformers"),
        ({}, "mars", "--task mars: unknown task; expected one of"),
        ({}, "token-classification", None),
        ({}, "question-answering", "needs weights that the directory lacks: qa_outputs.bias.*--task"),
        ({}, "image-classification", "--task image-classification: transformers has no bert for it"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_a_cure(saved, config, task, message):
    folder = saved("BERT", config=config)
    if message is None:  # the head has the same weights
        assert loaded(folder, task=task).labels
        return
    with pytest.raises(BadRequest, match=message):
        loaded(folder, task=task)


def test_directories_of_other_kinds_are_told_apart(tmp_path):
    for file, message in (
        ("adapter_config.json", "merge_and_unload"),
        ("model_index.json", "pipeline of several"),
        ("a", "unknown"),
    ):
        folder = tmp_path / file.partition(".")[0]
        folder.mkdir()
        (folder / file).write_text("{}")
        with pytest.raises(BadRequest, match=message):
            detect_kind(request(folder))
