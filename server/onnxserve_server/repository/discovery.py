"""Find the models of a repository: <root>/<model>/<version>/model.onnx, with <root>/<model>/model.yaml beside them."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import FILE_NAME, ModelConfig, read_config
from onnxserve_server.repository.files import check_regular, contained, is_dangling, missing, printable

_NOT_MODELS = (".", "lost+found")  # hidden directories, and one that file systems keep for themselves
_MODEL_FILE = "model.onnx"
_MAX_NAMES = 5  # in one message
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[0-9]+")


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


OnBroken = Callable[[str, str, ConfigurationError], None]
"""Called with a model, a version ("" for all of them), and what is wrong there; raises the error to go no further."""


def _refuse(_model: str, _version: str, error: ConfigurationError) -> None:
    raise error


def discover(root: Path, batching_defaults: dict[str, object], on_broken: OnBroken = _refuse) -> list[Found]:
    """Return the versions to serve, by model, oldest first.

    Hidden directories and plain files in the root are skipped. What is wrong with one model goes to `on_broken`.

    Raises:
        ConfigurationError: the root is not a directory or has no models, or on_broken raised it.
    """
    if not root.is_dir():
        problem = "not a directory" if root.exists() else "no such directory"
        raise ConfigurationError(f"{root}: {problem}; --models must name the directory that holds the models")
    with contained(root):
        directories = sorted(path for path in root.iterdir() if _may_be_model(path))
    if not directories:
        raise ConfigurationError(f"{root}: has no models; expected {root}/<model>/<version>/model.onnx")
    return [found for directory in directories for found in _usable(directory, batching_defaults, on_broken)]


def _may_be_model(path: Path) -> bool:
    return not path.name.startswith(_NOT_MODELS) and (os.path.isdir(path) or is_dangling(path))  # noqa: PTH112 - Path.is_dir() raises on names that are too long


def _usable(directory: Path, batching_defaults: dict[str, object], on_broken: OnBroken) -> Iterator[Found]:
    """Yield the versions of a model that can be tried."""
    try:
        with contained(directory):
            versions = _versions(directory, batching_defaults)
    except ConfigurationError as error:
        on_broken(printable(Path(directory.name)), "", error)
        return
    for found in versions:
        try:
            with contained(found.path):
                _check_file(found.path)
        except ConfigurationError as error:
            on_broken(found.name, found.version, error)
        else:
            yield found


def _versions(directory: Path, batching_defaults: dict[str, object]) -> list[Found]:
    if is_dangling(directory):
        raise ConfigurationError(f"{printable(directory)}: {missing(directory)}")
    if not _NAME.fullmatch(directory.name):
        raise ConfigurationError(
            f"{printable(directory)}: not a valid model name; use letters, digits, '.', '_' and '-', or move it away"
        )
    for path in directory.iterdir():
        if path.suffix in (".yml", ".yaml") and path.name != FILE_NAME:
            raise ConfigurationError(f"{printable(path)}: not read as configuration; rename it to {FILE_NAME}")
    config_file = directory / FILE_NAME
    config = read_config(config_file, batching_defaults)
    numbers = _served(_numbers(directory), config, config_file)
    return [Found(directory.name, number, directory / number / _MODEL_FILE, config_file, config) for number in numbers]


def _numbers(directory: Path) -> list[str]:
    """Return the versions that are there, oldest first."""
    paths = [path for path in directory.iterdir() if _VERSION.fullmatch(path.name)]
    numbers = sorted(
        (path.name for path in paths if path.is_dir() or is_dangling(path)), key=lambda name: (int(name), name)
    )
    for name, following in pairwise(numbers):
        if int(name) == int(following):
            raise ConfigurationError(f"{directory}: {name} and {following} are the same version; remove one of them")
    if not numbers:
        if (directory / _MODEL_FILE).exists():
            raise ConfigurationError(
                f"{directory}: is a version and not a model; --models must name the directory that holds the models"
            )
        raise ConfigurationError(f"{directory}: has no versions; expected {directory}/1/model.onnx")
    return numbers


def _served(numbers: list[str], config: ModelConfig, config_file: Path) -> list[str]:
    """Return those of the versions that are to be served."""
    if config.versions == "latest":
        return numbers[-1:]
    if config.versions == "all":
        return numbers
    missing_ones = [version for version in config.versions if version not in numbers]
    if missing_ones:
        problem = f"no version {', '.join(missing_ones)}; the versions are {', '.join(numbers)}"
        raise ConfigurationError(f"{config_file}: versions: {problem}")
    return [number for number in numbers if number in config.versions]


def _check_file(path: Path) -> None:
    """Check that a version has its model file; if not, the error names what it has."""
    if is_dangling(path.parent):
        raise ConfigurationError(f"{path.parent}: {missing(path.parent)}")
    others = sorted(printable(Path(other.name)) for other in path.parent.iterdir() if other.name != path.name)
    if others and not path.exists() and not path.is_symlink():
        raise ConfigurationError(f"{path}: no such file; the version has {', '.join(others[:_MAX_NAMES])} instead")
    check_regular(path)
