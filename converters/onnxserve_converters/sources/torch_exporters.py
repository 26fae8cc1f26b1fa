"""PyTorch's two exporters to ONNX: the one of torch.export ("dynamo"), and the one of TorchScript before it."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export._patches import register_gru_while_loop_decomposition, register_lstm_while_loop_decomposition

from onnxserve_converters import graph
from onnxserve_converters.errors import one_line
from onnxserve_converters.sources.torch_calls import Arguments, Call
from onnxserve_converters.sources.torch_values import named_tensors

OPSET = 20
"""The default of both exporters in torch 2.13, and the newest that the older one writes."""

DYNAMO, LEGACY = "torch.onnx.export(dynamo=True)", "torch.onnx.export(dynamo=False)"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an exporter needs to know.

    Attributes:
        model: a module, a script or an exported program.
        call: how inputs become its arguments; their free axes are to stay free.
        tensors: inputs, by name, to run the model with while it is recorded.
        outputs: how many there are.
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
        """Return what is exported, and with which arguments."""
        if isinstance(self.model, nn.Module) and not isinstance(self.model, torch.jit.ScriptModule):
            return _Flat(self.model, self.call), (tuple(self.tensors[spec.name] for spec in self.call.inputs), {})
        return self.model, self.call.arguments(self.tensors)

    def free_axes(self) -> list[dict[int, str]]:
        """Return the names of the free axes of each input, by number."""
        return [{i: axis for i, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in self.call.inputs]

    def options(self) -> dict[str, Any]:
        """Return the options of both exporters: the opset, and names as nothing inside a model has them.

        Either exporter writes what it is told, though a weight or an inner value have that name already: torch 2.13
        multiplies a weight by itself where an input "weight" was meant.
        """
        return {
            "opset_version": self.opset,
            "input_names": [graph.stand_in(i) for i in range(len(self.call.inputs))],
            "output_names": [f"output__{i}__" for i in range(self.outputs)],
        }


class _Flat(nn.Module):
    """A module that both exporters take: from tensors, in the order of its inputs, to a tuple of tensors."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model, self._call = model, call
        self.training = False  # not eval(), which the module of a program refuses

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        names = (spec.name for spec in self._call.inputs)
        args, kwargs = self._call.arguments(dict(zip(names, tensors, strict=True)))
        return tuple(named_tensors(self.model(*args, **kwargs)).values())


def _by_torch_export(job: Job) -> None:
    """Export a module, or a program, which knows its free axes and needs no arguments."""
    subject, (args, kwargs) = job.subject()
    shapes = {"tensors": tuple(job.free_axes())} if isinstance(subject, _Flat) else None
    # The exporter frees the length of LSTM and GRU in its first step alone; in its second it would freeze it again.
    with register_lstm_while_loop_decomposition(), register_gru_while_loop_decomposition():
        program = torch.onnx.export(
            subject, args, kwargs=kwargs, dynamic_shapes=shapes, dynamo=True, verbose=False, **job.options()
        )
    assert program is not None
    written = program.model.opset_imports[""]
    if written != job.opset:  # it does not fail where it cannot convert to an older set
        raise ValueError(f"it writes opset {written}, not {job.opset}")
    program.save(job.path)


def _by_torchscript(job: Job) -> None:
    """Export a script, or trace a module: what it does for the example must be what it always does."""
    subject, (args, kwargs) = job.subject()
    axes = {graph.stand_in(i): axes for i, axes in enumerate(job.free_axes())}
    with warnings.catch_warnings():
        # torch's own layers only check shapes in that way.
        warnings.filterwarnings("error", "Converting a tensor to a Python boolean", module=r"(?!torch\.)")
        torch.onnx.export(subject, args, job.path, kwargs=kwargs, dynamic_axes=axes, dynamo=False, **job.options())


def telling(error: BaseException) -> str:
    """Return what an exporter's long text says is wrong: how its first cause begins."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, lines=2)


EXPORTERS: dict[str, Callable[[Job], None]] = {
    DYNAMO: _by_torch_export,
    LEGACY: _by_torchscript,
}
"""By the name that messages have for them."""
