"""Reads the directory of a Hugging Face model without its library: configurations, and files for beside the model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxserve_converters.errors import BadRequest

_CONFIG = "config.json"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_BESIDE = ("*token*.json", "vocab*", "merges.txt", "*.model", "*processor_config.json", "*.jinja", _CONFIG)
_MAX_BYTES = 64 << 20  # of a file beside the model; the largest of known tokenizers are a third of it


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A directory as save_pretrained() writes it.

    Attributes:
        path: the directory.
        config: the content of config.json.
        processor: the configuration of the preprocessor of images or sound; empty without one.
        tokenizer: the configuration of the tokenizer; empty without one.
    """

    path: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    tokenizer: Mapping[str, Any]

    def assets(self) -> dict[str, Path]:
        """Return the files that belong beside the model, by name: those of tokenizer and preprocessor, if not large."""
        found = {file.name: file for pattern in _BESIDE for file in sorted(self.path.glob(pattern)) if file.is_file()}
        return {
            name: file for name, file in found.items() if file.stat().st_size <= _MAX_BYTES and name not in _WEIGHTS
        }


def read_folder(path: Path) -> Folder:
    """Return what a directory says of its model.

    Raises:
        BadRequest: a configuration cannot be read, the model has code of its own, no weights, or quantized ones.
    """
    config = _read_json(path / _CONFIG)
    if "auto_map" in config:
        raise BadRequest(
            f"{path / _CONFIG}: auto_map names code that comes with the model, and such code is never run; import its "
            "class in a program of yours and call onnxserve_converters.convert(model, ...), or, if transformers has "
            "the architecture too, remove auto_map"
        )
    if "model_type" not in config:
        raise BadRequest(
            f"{path / _CONFIG}: no model_type, so it is not a configuration of the transformers library; convert the "
            "file of the weights, with its class by --class"
        )
    if "quantization_config" in config:
        raise BadRequest(
            f"{path / _CONFIG}: the weights are quantized; convert the model before its quantization, which --quantize "
            "dynamic does again"
        )
    if not any((path / file).is_file() for file in _WEIGHTS):
        raise BadRequest(
            f"{path}: no weights: none of {', '.join(_WEIGHTS)}; save the model with model.save_pretrained(DIRECTORY)"
        )
    processors = [_read_json(path / name) for name in _PROCESSORS if (path / name).is_file()]
    tokenizer = path / "tokenizer_config.json"
    return Folder(
        path=path,
        config=config,
        processor=_flat(processors[0]) if processors else {},
        tokenizer=_read_json(tokenizer) if tokenizer.is_file() else {},
    )


def _flat(processor: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a processor's configuration that is for images or sound."""
    parts = [processor.get(part) for part in ("image_processor", "feature_extractor")]
    return next((part for part in parts if isinstance(part, dict)), processor)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadRequest(f"{path}: expected a JSON object")
    return content
