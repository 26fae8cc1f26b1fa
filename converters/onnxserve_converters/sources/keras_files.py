"""Reads files of Keras models without Keras: architecture, version of the writer, layout of the weights."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from onnxserve_converters.errors import BadRequest

_TRAINING_GROUPS = {"optimizer", "metrics"}  # of a weights file


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model without weights, as Keras writes it.

    Attributes:
        config: {"class_name": ..., "config": ...} and more.
        version: of the Keras that wrote it; None where unknown.
    """

    config: dict[str, Any]
    version: str | None

    @property
    def of_keras_2(self) -> bool:
        """Whether Keras 2, or 1, wrote it."""
        return self.version is not None and self.version.startswith(("1.", "2."))

    @property
    def is_legacy(self) -> bool:
        """Whether classes are named without their modules, as in all files of Keras 2 and HDF5 files of Keras 3."""
        return self.of_keras_2 or "module" not in self.config

    @property
    def holds_code(self) -> bool:
        """Whether it contains a function as code, such as that of a Lambda layer."""
        return any(
            node.get("class_name") == "__lambda__"
            or (node.get("class_name") == "Lambda" and isinstance(node["config"].get("function"), list))  # of Keras 2
            for node in nodes(self.config)
        )


def read_archive(path: Path) -> Architecture:
    """Return the architecture in a .keras file.

    Raises:
        BadRequest: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in archive.namelist() else {}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadRequest(f"{path}: not a readable .keras file: {error}") from error
    return Architecture(config=config, version=metadata.get("keras_version"))


def read_json(path: Path) -> Architecture:
    """Return the architecture in a .json file of model.to_json()."""
    config = json.loads(path.read_text())
    return Architecture(config=config, version=config.get("keras_version"))


def read_h5(path: Path) -> Architecture | None:
    """Return the architecture in an HDF5 file; None where the file holds weights alone.

    Raises:
        BadRequest: the file cannot be read.
    """
    with _open(path) as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
    if config is None:
        return None
    try:
        return Architecture(config=json.loads(config), version=str(version))
    except ValueError as error:
        raise BadRequest(f"{path}: the attribute model_config is not valid JSON: {error}") from error


def weights_suffix(path: Path) -> str:
    """Return the file ending by which Keras recognizes the layout of the weights.

    Raises:
        BadRequest: the file cannot be read.
    """
    if zipfile.is_zipfile(path):
        return ".keras"
    with _open(path) as file:
        by_order_of_layers = "layer_names" in file.attrs or "model_weights" in file
    return ".h5" if by_order_of_layers else ".weights.h5"


def count_weights(path: Path) -> int:
    """Return the number of arrays in an HDF5 file, without those of the optimizer and metrics.

    Raises:
        BadRequest: the file cannot be read.
    """
    arrays: list[str] = []
    with _open(path) as file:
        file.visititems(lambda name, part: arrays.append(name) if isinstance(part, h5py.Dataset) else None)
    return sum(_TRAINING_GROUPS.isdisjoint(name.split("/")) for name in arrays)


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every dictionary in a configuration, outer ones first."""
    if isinstance(config, dict):
        yield config
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for part in parts:
        yield from nodes(part)


def _open(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise BadRequest(f"{path}: not a readable HDF5 file: {error}") from error
