"""Cuts layers that work on strings off a Keras model: it takes what they would have made of the strings."""

import copy
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.sources.keras_files import Architecture, nodes

_LAYERS = ("TextVectorization", "StringLookup")
_TENSOR = "__keras_tensor__"


@dataclass(frozen=True, kw_only=True)
class Strings:
    """The layers that were cut off.

    Attributes:
        vocabularies: the tokens by the name of the input that takes their numbers, in the order of the numbers.
        notes: what was cut off, a sentence for each.
    """

    vocabularies: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def assets(self) -> dict[str, str]:
        """Return the vocabularies as texts by the names of their files, a token a line."""
        return {_file(name): "\n".join(tokens) + "\n" for name, tokens in self.vocabularies.items()}


class TokenDrawer:
    """Draws numbers of tokens; implements drawing.Drawer.

    Args:
        vocabularies: tokens by input.
        shapes: of these inputs, with their free axes.
    """

    def __init__(self, vocabularies: Mapping[str, list[str]], shapes: Mapping[str, tuple[int | str, ...]]) -> None:
        self._counts = {name: len(tokens) for name, tokens in vocabularies.items() if name in shapes}
        self._shapes = shapes
        self.notes: Mapping[str, str] = {
            name: f"numbers of the {count} tokens of the vocabulary" for name, count in self._counts.items()
        }

    def draw(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
        """Return numbers of tokens, each as likely as the others."""
        shapes = {
            name: tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self._shapes[name])
            for name in self._counts
        }
        return {name: rng.integers(count, size=shapes[name]) for name, count in self._counts.items()}


def cut_off_strings(path: Path, architecture: Architecture) -> tuple[Architecture, Strings]:
    """Return a .keras file's architecture without its layers of strings, and what they were.

    A layer is cut off that gives numbers of tokens, gets an input as it is, and has its vocabulary in the file;
    all others stay.
    """
    config, strings = copy.deepcopy(architecture.config), Strings()
    layers = config.get("config", {}).get("layers", [])
    inputs = {_name(layer): layer for layer in layers if layer.get("class_name") == "InputLayer"}
    folders = _folders(layers)
    for layer in [layer for layer in layers if layer.get("class_name") in _LAYERS]:
        own = layer["config"]
        source = _source(layer, layers, inputs)
        shape = _shape(config, layer, source)
        tokens = own.get("vocabulary") or _vocabulary(path, folders[_name(layer)])
        if (
            source is None
            or shape is None
            or own.get("output_mode", "int") != "int"
            or own.get("invert")
            or not isinstance(tokens, list)
        ):
            continue
        source["config"] |= {"dtype": "int64", "batch_shape": shape}
        layers.remove(layer)
        _bypass(config, _name(layer), _name(source))
        tokens = tokens if tokens[:1] in ([""], ["[UNK]"]) else [*_special(layer), *tokens]
        strings.vocabularies[_name(source)] = tokens
        strings.notes.append(
            f"layer {_name(layer)} ({layer['class_name']}) works on strings and was cut off: input {_name(source)} "
            f"takes the numbers that it gives, by the vocabulary in assets/{_file(_name(source))}, counted from 0"
        )
    return (replace(architecture, config=config), strings) if strings.notes else (architecture, strings)


def _name(layer: Mapping[str, Any]) -> str:
    return str(layer.get("name") or layer["config"]["name"])


def _file(name: str) -> str:
    return f"vocabulary_{name}.txt".replace("/", "_")


def _special(layer: Mapping[str, Any]) -> list[str]:
    """Return the tokens before those of a vocabulary that was given to a layer: padding, and unknown ones."""
    padding = (
        [""] if layer["class_name"] == "TextVectorization" or layer["config"].get("mask_token") is not None else []
    )
    return [*padding, *["[UNK]"] * layer["config"].get("num_oov_indices", 1)]


def _source(layer: Mapping[str, Any], layers: list[Any], inputs: Mapping[str, Any]) -> Any:
    """Return the input that a layer gets; None where it gets another value, or another layer gets the input too."""
    before = layers.index(layer) - 1
    if "inbound_nodes" not in layer:  # of a Sequential
        return inputs.get(_name(layers[before])) if before == 0 else None
    histories = [history[0] for history in _histories(layer)]
    shared = sum(history[0] in histories for each in layers for history in _histories(each))
    return inputs.get(histories[0]) if len(histories) == shared == 1 else None


def _shape(config: Any, layer: Mapping[str, Any], source: Any) -> list[Any] | None:
    """Return the shape of what a layer gives."""
    for node in nodes(config):
        if node.get("class_name") == _TENSOR and node["config"]["keras_history"][0] == _name(layer):
            return list(node["config"]["shape"])
    if source is None:
        return None
    if layer["class_name"] == "StringLookup":
        return list(source["config"]["batch_shape"])
    return [None, layer["config"].get("output_sequence_length")]


def _histories(layer: Mapping[str, Any]) -> list[Any]:
    found = [node["config"] for node in nodes(layer.get("inbound_nodes", [])) if node.get("class_name") == _TENSOR]
    return [tensor["keras_history"] for tensor in found]


def _bypass(config: Any, layer: str, source: str) -> None:
    """Let those who get what a layer gives get an input instead."""
    for node in nodes(config):
        history = node["config"]["keras_history"] if node.get("class_name") == _TENSOR else [None]
        if history[0] == layer:
            history[:] = [source, 0, 0]


def _folders(layers: list[Any]) -> dict[str, str]:
    """Return where the archive has the files of each layer: Keras counts the layers of one class from none."""
    names = {"TextVectorization": "text_vectorization", "StringLookup": "string_lookup"}
    folders: dict[str, str] = {}
    for layer in layers:
        if (name := names.get(layer.get("class_name"))) is not None:
            before = sum(folder.startswith(name) for folder in folders.values())
            folders[_name(layer)] = f"{name}_{before}" if before else name
    return folders


def _vocabulary(path: Path, folder: str) -> list[str] | None:
    """Return the vocabulary that a layer learned; None where the archive has none."""
    name = f"assets/layers/{folder}/vocabulary.txt"
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode().split("\n") if name in archive.namelist() else None
