"""Find the models of a repository: <root>/<model>/<version>/model.onnx, with <root>/<model>/model.yaml beside them."""

import re
from dataclasses import dataclass
from pathlib import Path

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import FILE_NAME, ModelConfig, read_config

_NOT_MODELS = (".", "lost+found")  # hidden directories, and one that file systems keep for themselves
_MODEL_FILE = "model.onnx"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """One version of a model on disk.

    Attributes:
        path: the model file.
        config_file: where its configuration is, or would be.
        config: the configuration.
    """

    name: str
    version: str
    path: Path
    config_file: Path
    config: ModelConfig


def discover(root: Path, batching_defaults: dict[str, object]) -> list[Found]:
    """Return the versions to serve, by model, oldest first.

    Hidden directories and plain files in the root are skipped.

    Raises:
        ConfigurationError: the root is not a directory or has no models, or a model's files or configuration are wrong.
    """
    if not root.is_dir():
        problem = "not a directory" if root.exists() else "no such directory"
        raise ConfigurationError(f"{root}: {problem}; --models must name the directory that holds the models")
    directories = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(_NOT_MODELS))
    found = [version for directory in directories for version in _versions(directory, batching_defaults)]
    if not found:
        raise ConfigurationError(f"{root}: has no models; expected {root}/<model>/<version>/model.onnx")
    return found


def _versions(directory: Path, batching_defaults: dict[str, object]) -> list[Found]:
    if not _NAME.fullmatch(directory.name):
        raise ConfigurationError(f"{directory}: not a valid model name; use letters, digits, '.', '_' and '-'")
    for path in directory.iterdir():
        if path.suffix in (".yml", ".yaml") and path.name != FILE_NAME:
            raise ConfigurationError(f"{path}: not read as configuration; rename it to {FILE_NAME}")
    config_file = directory / FILE_NAME
    config = read_config(config_file, batching_defaults)
    numbers = sorted((path.name for path in directory.iterdir() if path.is_dir() and path.name.isdecimal()), key=int)
    if not numbers:
        if (directory / _MODEL_FILE).exists():
            raise ConfigurationError(
                f"{directory}: is a version and not a model; --models must name the directory that holds the models"
            )
        raise ConfigurationError(f"{directory}: has no versions; expected {directory}/1/model.onnx")
    if config.versions == "latest":
        numbers = numbers[-1:]
    elif config.versions != "all":
        missing = [version for version in config.versions if version not in numbers]
        if missing:
            problem = f"no version {', '.join(missing)}; the versions are {', '.join(numbers)}"
            raise ConfigurationError(f"{config_file}: versions: {problem}")
        numbers = [number for number in numbers if number in config.versions]
    found = [Found(directory.name, number, directory / number / _MODEL_FILE, config_file, config) for number in numbers]
    for version in found:
        if not version.path.is_file():
            raise ConfigurationError(f"{version.path}: no such file")
    return found
