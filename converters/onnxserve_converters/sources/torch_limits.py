"""The values that a PyTorch model takes: the rows of the table that indices are looked up in, and pixels' range."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from onnxserve_converters.drawing import Limits
from onnxserve_converters.inputs import InputSpec

_aten = torch.ops.aten
_IMAGE_AXES = 4

Lookup = tuple[int, torch.Tensor]
"""The rows of a table, and the indices that are looked up in it."""


class _Lookups(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Records the look-ups of everything that runs, whichever module or function calls for them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.found: list[Lookup] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        self.found += _lookups(func, args)
        return func(*args, **(kwargs or {}))


def _lookups(func: Any, args: tuple[Any, ...]) -> Iterator[Lookup]:
    """Yield the look-up of one operation; other tables than weights have no size of their own."""
    embeddings = (_aten.embedding.default, _aten._embedding_bag.default, _aten._embedding_bag_forward_only.default)
    if func in embeddings:
        yield len(args[0]), args[1].clone()
    elif func is _aten.index_select.default and isinstance(args[0], torch.nn.Parameter):
        yield args[0].shape[args[1]], args[2].clone()
    elif func is _aten.index.Tensor and isinstance(args[0], torch.nn.Parameter) and args[1][0] is not None:
        yield len(args[0]), args[1][0].clone()


def table_limits(
    run: Callable[[Mapping[str, torch.Tensor]], Any], examples: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, Limits]:
    """Return limits of the inputs that are looked up in a table as they are; of several tables the smallest counts."""
    runs = []
    for tensors in examples:
        with _Lookups() as lookups, torch.no_grad():
            run(tensors)
        runs.append(lookups.found)
    rows: dict[str, int] = {}
    for same in zip(*runs, strict=False):
        for name in examples[0]:
            if all(_equal(indices, given[name]) for (_, indices), given in zip(same, examples, strict=True)):
                rows[name] = min(rows.get(name, same[0][0]), same[0][0])
    return {
        name: Limits(0, count - 1, f"indices of the {count} rows of the table that the model looks them up in")
        for name, count in rows.items()
    }


def image_limits(model: object, inputs: Sequence[InputSpec]) -> dict[str, Limits]:
    """Return limits of images whose normalization the model carries, as timm's do: pixels from 0 to 1, normalized."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not config.get("mean") or not config.get("std"):
        return {}
    pairs = list(zip(config["mean"], config["std"], strict=True))
    low, high = min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)
    images = [spec for spec in inputs if spec.dtype.startswith("float") and len(spec.shape) == _IMAGE_AXES]
    return {spec.name: Limits(low, high, "pixels, normalized by the model's own mean and std") for spec in images}


def _equal(indices: torch.Tensor, given: torch.Tensor) -> bool:
    if given.is_floating_point() or given.dtype == torch.bool or indices.numel() != given.numel():
        return False
    return torch.equal(indices.reshape(-1).long(), given.reshape(-1).long())
