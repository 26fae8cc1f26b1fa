"""Hugging Face transformers: directories of save_pretrained(), read from disk alone and without code from there."""

import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onnxserve_converters.drawing import Drawer
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.request import Request
from onnxserve_converters.sources.huggingface_folder import Folder, read_folder
from onnxserve_converters.sources.huggingface_inputs import Images, Part, RowDrawer, Texts, complete_inputs
from onnxserve_converters.sources.huggingface_sound import Sound, Spectrograms
from onnxserve_converters.sources.torch import TorchModel, set_up
from onnxserve_converters.sources.torch_calls import ModuleCall
from onnxserve_converters.sources.torch_exporters import DYNAMO, LEGACY

_CURE = "rewrite the part of the model that the message names"

# Classes whose outputs of the name "logits" end in an axis of the configuration's classes.
_CLASSIFIERS = tuple(f"For{what}Classification" for what in ("Sequence", "Token", "Image", "Audio", "Video"))


def load(request: Request, kind: str) -> "HuggingFaceModel":
    """Return the model of a directory of the kind "huggingface".

    Raises:
        BadRequest: it cannot be loaded as requested, or its inputs are described wrongly.
    """
    del kind
    folder = read_folder(request.source)
    set_up()
    import_transformers()
    from onnxserve_converters.sources.huggingface_classes import load_model

    model, notes = load_model(folder, request.task)
    parts = _parts(folder, model)
    inputs = complete_inputs(folder, parts, request.inputs)
    return HuggingFaceModel(folder, model, inputs, RowDrawer(parts, inputs), notes)


class HuggingFaceModel(TorchModel):
    """A model of transformers, without cache; implements sources.base.Model and assets.WithAssets.

    Args:
        folder: its directory.
        model: a transformers.PreTrainedModel.
        inputs: complete descriptions.
        drawer: draws these.
        notes: on how it was loaded.
    """

    def __init__(
        self, folder: Folder, model: Any, inputs: tuple[InputSpec, ...], drawer: Drawer, notes: list[str]
    ) -> None:
        import transformers

        module, call = _Tensors(model), ModuleCall(inspect.signature(model.forward), inputs)
        super().__init__(module, module.eval(), call, exporters=(DYNAMO, LEGACY), cure=_CURE, notes=notes)
        self.reference = f"transformers {transformers.__version__} on {self.reference}"
        self.versions |= {"transformers": transformers.__version__}
        self.labels = _labels(model)
        self.drawer = drawer
        self.assets: Mapping[str, Path | str] = folder.assets()


def import_transformers() -> None:
    """Import transformers so that it asks no network, and without a torchvision that cannot be loaded.

    Its models do without torchvision, but fail on import where that was built for another PyTorch.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    find = importlib.util.find_spec
    if not _loads("torchvision"):
        importlib.util.find_spec = lambda name, package=None: None if name == "torchvision" else find(name, package)
    try:
        import transformers

        transformers.utils.logging.disable_progress_bar()
    finally:
        importlib.util.find_spec = find


def _parts(folder: Folder, model: Any) -> list[Part]:
    """Return what a model takes.

    Raises:
        BadRequest: nothing that is known here.
    """
    takes, config = inspect.signature(model.forward).parameters, model.config
    parts: dict[str, Callable[[], Part]] = {
        "input_ids": lambda: Texts(folder, config, takes),
        "pixel_values": lambda: Images(folder, config, beside_texts="input_ids" in takes),
        "input_values": lambda: Sound(folder, config, takes),
        "input_features": lambda: Spectrograms(config, takes),
    }
    if not parts.keys() & takes.keys():
        raise BadRequest(
            f"{folder.path}: {type(model).__name__} takes {', '.join(takes)}, and none of {', '.join(parts)}; convert "
            "it from Python with its inputs described: onnxserve_converters.convert(model, ..., inputs=[...])"
        )
    return [make() for name, make in parts.items() if name in takes]


class _Tensors(nn.Module):
    """A model of transformers that returns the tensors of its output by name: no cache and no nested outputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        output = self.model(*args, **kwargs)
        return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}


def _loads(package: str) -> bool:
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError):  # RuntimeError: operator torchvision::nms does not exist
        return False
    return True


def _labels(model: Any) -> dict[str, list[str]]:
    """Return the class names of a classifier's output; those that transformers made up are left out."""
    names = {int(i): str(name) for i, name in (model.config.id2label or {}).items()}
    if not type(model).__name__.endswith(_CLASSIFIERS) or sorted(names) != list(range(len(names))):
        return {}
    ordered = [names[i] for i in range(len(names))]
    return {} if ordered == [f"LABEL_{i}" for i in range(len(names))] else {"logits": ordered}
