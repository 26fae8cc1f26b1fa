"""Stand-ins for the plain classes beside weights in checkpoints; no code of the classes themselves runs.

torch.load(weights_only=True) refuses every class that it does not know. Those here only hold values: each is replaced
by a class of this module, which keeps what is stored and calls nothing.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

_NAMESPACES = (
    "argparse.Namespace",
    "types.SimpleNamespace",
)
_DICTIONARIES = (  # Lightning's hyperparameters
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_VALUES = (
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local")
      for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("datetime.datetime", "datetime.timedelta"),
)  # fmt: skip


class _Namespace:
    """Holds attributes."""

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Value:
    """Holds the arguments of a path, a number or a dtype of numpy, or a time, and its state, if it has one."""

    def __init__(self, *arguments: object) -> None:
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((_Namespace, name) for name in _NAMESPACES),
    *((OrderedDict, name) for name in _DICTIONARIES),
    *((_Value, name) for name in _VALUES),
]
"""For torch.serialization.safe_globals(): classes, and the names in files that they stand for."""
