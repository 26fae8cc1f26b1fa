"""Files that belong to a model beside its graph, as those of its tokenizer: they are published with it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

FOLDER = "assets"
"""The folder of a version that holds them."""


@runtime_checkable
class WithAssets(Protocol):
    """A model with such files.

    Attributes:
        assets: the files, or their texts, by the names that they get.
    """

    assets: Mapping[str, Path | str]


def publish_assets(model: object, version: Path) -> list[str]:
    """Write the files of a model to its version's directory, and return their paths in there."""
    assets = model.assets if isinstance(model, WithAssets) else {}
    for name, content in assets.items():
        path = version / FOLDER / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            shutil.copyfile(content, path)
    return [f"{FOLDER}/{name}" for name in assets]
