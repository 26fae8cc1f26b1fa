"""Find the models of a repository: <root>/<model>/<version>/model.onnx, with <root>/<model>/model.yaml beside."""

import re
from dataclasses import dataclass
from pathlib import Path

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import FILE_NAME, ModelConfig, read_config

_NOT_MODELS = (".", "lost+found")  # hidden folders, and what a file system keeps for itself
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """One version of a model on disk.

    Attributes:
        path: the model file.
        config_file: where its configuration is, or would be; `config` is what it says.
    """

    name: str
    version: str
    path: Path
    config_file: Path
    config: ModelConfig


def discover(root: Path, batching_defaults: dict[str, object]) -> list[Found]:
    """Return the versions to serve, by model, oldest first.

    Hidden folders and plain files in the root are passed over.

    Raises:
        ConfigurationError: the root is no folder or holds no model, or a model's folder or configuration is at fault.
    """
    if not root.is_dir():
        raise ConfigurationError(f"{root}: there is no such folder; --models names the folder that holds the models")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(_NOT_MODELS))
    found = [version for folder in folders for version in _versions(folder, batching_defaults)]
    if not found:
        raise ConfigurationError(f"{root}: it holds no model; expected {root}/<model>/<version>/model.onnx")
    return found


def _versions(folder: Path, batching_defaults: dict[str, object]) -> list[Found]:
    if not _NAME.fullmatch(folder.name):
        raise ConfigurationError(f"{folder}: a model's name is made of letters, digits, '.', '_' and '-'")
    for path in folder.iterdir():
        if path.suffix in (".yml", ".yaml") and path.name != FILE_NAME:
            raise ConfigurationError(f"{path}: it would not be read; a model's configuration is called {FILE_NAME}")
    config_file = folder / FILE_NAME
    config = read_config(config_file, batching_defaults)
    numbers = sorted((path.name for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()), key=int)
    if not numbers:
        raise ConfigurationError(f"{folder}: it holds no version; expected {folder}/1/model.onnx")
    if config.versions == "latest":
        numbers = numbers[-1:]
    elif config.versions != "all":
        missing = [version for version in config.versions if version not in numbers]
        if missing:
            told = f"there is no version {', '.join(missing)}; there are {', '.join(numbers)}"
            raise ConfigurationError(f"{config_file}: versions: {told}")
        numbers = [number for number in numbers if number in config.versions]
    found = [Found(folder.name, number, folder / number / "model.onnx", config_file, config) for number in numbers]
    for version in found:
        if not version.path.is_file():
            raise ConfigurationError(f"{version.path}: there is no such file")
    return found
