"""Models of timm and torchvision by their names: --class timm:resnet18, --class torchvision:resnet18."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxserve.tensor import Array
from onnxserve_converters.errors import BadRequest, one_line
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.sources import base

LIBRARIES = ("timm", "torchvision")

_HEADS = ("classifier", "fc", "head", "heads")  # where torchvision's networks have their last layer


def is_named(class_path: str | None) -> bool:
    """Whether a class path is a library and the name of a model in it, rather than a class or function there."""
    library, _, name = (class_path or "").partition(":")
    return library in LIBRARIES and "." not in name and not hasattr(_library(library), name)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a model takes: images of a size (channels, height, width), normalized by mean and deviation by channel."""

    size: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]

    def spec(self) -> InputSpec:
        """Return the description of the input."""
        return InputSpec("image", "float32", ("batch", *self.size))


class ImageDrawer:
    """Draws random images as a library normalizes them; implements drawing.Drawer.

    Args:
        spec: the input.
        preprocessing: how images are normalized.
        library: that says so.
    """

    def __init__(self, spec: InputSpec, preprocessing: Preprocessing, library: str) -> None:
        self._spec, self._preprocessing = spec, preprocessing
        self.notes: Mapping[str, str] = {spec.name: f"pixels from 0 to 1, normalized as {library} does for this model"}

    def draw(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
        """Return images of random pixels."""
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self._spec.shape)
        mean, std = (np.array(each)[:, None, None] for each in (self._preprocessing.mean, self._preprocessing.std))
        return {self._spec.name: ((rng.uniform(size=shape) - mean) / std).astype(np.float32)}


def make_named(class_path: str, arguments: Mapping[str, Any], held: Mapping[str, Any]) -> nn.Module:
    """Return a model of a library, with as many classes as the weights have.

    Args:
        class_path: as is_named() says.
        arguments: for the library's function, such as num_classes.
        held: the content of the file of weights, however nested.

    Raises:
        BadRequest: the library does not have the model, or not with these arguments.
    """
    library, _, name = class_path.partition(":")
    try:
        make = _maker(library, name)
        given = dict(arguments)
        if "num_classes" not in given and (classes := _classes(make(), library, held)) is not None:
            given["num_classes"] = classes
        module: nn.Module = make(**given)
    except BadRequest:
        raise
    except Exception as error:  # of the libraries, of any class
        raise BadRequest(f"--class {class_path}: cannot be created: {one_line(error)}") from error
    return module


def preprocessing(class_path: str, module: Any) -> Preprocessing:
    """Return what a model takes by its library's configuration."""
    library, _, name = class_path.partition(":")
    if library == "timm":
        own = module.pretrained_cfg
        return Preprocessing(size=tuple(own["input_size"]), mean=own["mean"], std=own["std"])
    transforms = _library(library).models.get_model_weights(name).DEFAULT.transforms()
    side = transforms.crop_size[0]
    return Preprocessing(size=(len(transforms.mean), side, side), mean=transforms.mean, std=transforms.std)


def _maker(library: str, name: str) -> Any:
    """Return the function that makes a model without weights."""
    package = _library(library)
    if library == "timm":
        known, make = package.is_model(name), lambda **given: package.create_model(name, pretrained=False, **given)
    else:
        known = name in package.models.list_models()
        make = lambda **given: package.models.get_model(name, weights=None, **given)  # noqa: E731 - the twin of the above
    if not known:
        raise BadRequest(f"--class {library}:{name}: {library} {package.__version__} has no model of this name")
    return make


def _classes(module: nn.Module, library: str, held: Mapping[str, Any]) -> int | None:
    """Return the number of classes by the last layer in the weights; None where it cannot be told."""
    heads = [module.pretrained_cfg["classifier"]] if library == "timm" else list(_HEADS)  # type: ignore[index]
    own = [key for key in module.state_dict() if key.startswith(tuple(f"{head}." for head in heads))]
    last = next((key for key in reversed(own) if key.endswith(".weight")), None)
    if last is None:
        return None
    return next((len(value) for key, value in _tensors(held) if f".{key}".endswith(f".{last}")), None)


def _tensors(held: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in held.items():
        if isinstance(value, torch.Tensor):
            yield str(key), value
        elif isinstance(value, Mapping):
            yield from _tensors(value)


def _library(name: str) -> Any:
    """Import a library.

    Raises:
        BadRequest: it is not installed, or torchvision was built for another PyTorch.
    """
    base.need("vision", name)
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        raise BadRequest(
            f"torchvision was built for another PyTorch than the installed one, {torch.__version__}, and cannot be "
            f"loaded ({one_line(error)}); install the torchvision "
            "that belongs to it, from the same place"
        ) from error
