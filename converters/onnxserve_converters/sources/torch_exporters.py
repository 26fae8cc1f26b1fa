"""PyTorch's two exporters to ONNX: by torch.export ("dynamo"), and the older one by TorchScript."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export._patches import register_gru_while_loop_decomposition, register_lstm_while_loop_decomposition

from onnxserve_converters import interface
from onnxserve_converters.errors import one_line
from onnxserve_converters.sources.torch_calls import Arguments, Call
from onnxserve_converters.sources.torch_values import named_tensors

OPSET = 20
"""The default of both exporters in torch 2.13, and the newest that the older one writes."""

DYNAMO, LEGACY = "torch.onnx.export(dynamo=True)", "torch.onnx.export(dynamo=False)"


@dataclass(frozen=True, kw_only=True)
class Export:
    """The inputs of an exporter.

    Attributes:
        model: a module, a script or an exported program.
        call: turns inputs into its arguments; their free axes must stay free.
        tensors: inputs, by name, for the run that is recorded.
        outputs: the number of outputs.
        opset: the ONNX operator set.
        path: of the file to write.
    """

    model: nn.Module | ExportedProgram
    call: Call
    tensors: Mapping[str, torch.Tensor]
    outputs: int
    opset: int
    path: Path

    def subject(self) -> tuple[Any, Arguments]:
        """Return the exported object and its arguments."""
        if isinstance(self.model, nn.Module) and not isinstance(self.model, torch.jit.ScriptModule):
            return _Flat(self.model, self.call), (tuple(self.tensors[spec.name] for spec in self.call.inputs), {})
        return self.model, self.call.arguments(self.tensors)

    def free_axes(self) -> list[dict[int, str]]:
        """Return the names of the free axes of each input, by number."""
        return [{i: axis for i, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in self.call.inputs]

    def options(self) -> dict[str, Any]:
        """Return the options of both exporters: the opset, and names that no value inside a model has.

        Neither exporter checks whether a weight or an inner value has the same name: with an input "weight" torch 2.13
        multiplies the weight by itself.
        """
        return {
            "opset_version": self.opset,
            "input_names": [interface.stand_in(i) for i in range(len(self.call.inputs))],
            "output_names": [f"output__{i}__" for i in range(self.outputs)],
        }


class _Flat(nn.Module):
    """A module that both exporters accept: from tensors, in the order of its inputs, to a tuple of tensors."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model, self._call = model, call
        self.training = False  # not eval(), which a program's module does not support

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        names = (spec.name for spec in self._call.inputs)
        args, kwargs = self._call.arguments(dict(zip(names, tensors, strict=True)))
        return tuple(named_tensors(self.model(*args, **kwargs)).values())


def _by_torch_export(export: Export) -> None:
    """Export a module, or a program, whose free axes are in the program."""
    subject, (args, kwargs) = export.subject()
    shapes = {"tensors": tuple(export.free_axes())} if isinstance(subject, _Flat) else None
    # The exporter frees the length of LSTM and GRU in its first step alone; its second would fix it again.
    with register_lstm_while_loop_decomposition(), register_gru_while_loop_decomposition():
        program = torch.onnx.export(
            subject, args, kwargs=kwargs, dynamic_shapes=shapes, dynamo=True, verbose=False, **export.options()
        )
    assert program is not None
    written = program.model.opset_imports[""]
    if written != export.opset:  # a failed conversion to an older opset raises nothing
        raise ValueError(f"it wrote opset {written}, not {export.opset}")
    program.save(export.path)


def _by_torchscript(export: Export) -> None:
    """Export a script, or trace a module, whose operations must not depend on the example's values."""
    subject, (args, kwargs) = export.subject()
    axes = {interface.stand_in(i): axes for i, axes in enumerate(export.free_axes())}
    with warnings.catch_warnings():
        # torch's own layers convert tensors only to check shapes.
        warnings.filterwarnings("error", "Converting a tensor to a Python boolean", module=r"(?!torch\.)")
        torch.onnx.export(
            subject, args, export.path, kwargs=kwargs, dynamic_axes=axes, dynamo=False, **export.options()
        )


def first_cause(error: BaseException) -> str:
    """Return the first two lines of the first cause of an exporter's error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, lines=2)


EXPORTERS: dict[str, Callable[[Export], None]] = {
    DYNAMO: _by_torch_export,
    LEGACY: _by_torchscript,
}
"""By the name used in messages."""
