"""PyTorch: TorchScript, exported programs, weights of a class, whole modules, and in-memory modules."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from onnxserve.tensor import Array
from onnxserve_converters.cases import Case
from onnxserve_converters.drawing import Drawer, Limits
from onnxserve_converters.errors import BadRequest, ExportFailed, one_line
from onnxserve_converters.request import Request
from onnxserve_converters.sources import base
from onnxserve_converters.sources.named import ImageDrawer, is_named, preprocessing
from onnxserve_converters.sources.torch_calls import Call, ModuleCall, ProgramCall, script_signature
from onnxserve_converters.sources.torch_exporters import DYNAMO, EXPORTERS, LEGACY, OPSET, Export, first_cause
from onnxserve_converters.sources.torch_files import read_in_memory, read_module, read_program, read_script
from onnxserve_converters.sources.torch_limits import image_limits, table_limits
from onnxserve_converters.sources.torch_values import check_dtype, named_tensors, recorded, to_array, to_tensor

_MAX_THREADS = 4  # references are small, and the machine may be serving
_FROM_CLASS = "convert it from its class: save its state_dict() and name the class with --class package.module:Class"


def load(request: Request, kind: str) -> "TorchModel":
    """Return the model of a source of the kind "torchscript", "pt2", "state_dict" or "live_torch".

    Raises:
        BadRequest: it cannot be loaded as requested, or its inputs are described wrongly.
    """
    base.need("torch", "onnxscript")
    set_up()
    match kind:
        case "torchscript":
            return _of_script(request)
        case "pt2":
            return _of_program(request)
        case "live_torch":
            return _of_module(request, read_in_memory(request.source), [])
        case _:
            return _of_module(request, *read_module(request))


def set_up() -> None:
    """Prepare PyTorch for references and exports."""
    torch.set_num_threads(min(_MAX_THREADS, len(os.sched_getaffinity(0))))
    torch.backends.mha.set_fastpath_enabled(False)  # it zeroes padded positions, which no exporter writes


class TorchModel:
    """A module or program that PyTorch runs; implements sources.base.Model.

    Args:
        runs: computes the reference.
        exported: the module or program to export.
        call: how the inputs become the arguments of both.
        exporters: names of EXPORTERS, tried in this order until one writes a file.
        cure: what to do where none does, for the message.
        notes: on how it was loaded.

    Raises:
        BadRequest: an input has a dtype that cannot be compared.
    """

    def __init__(
        self,
        runs: Callable[..., Any],
        exported: nn.Module | ExportedProgram,
        call: Call,
        *,
        exporters: tuple[str, ...],
        cure: str,
        notes: list[str],
    ) -> None:
        self._runs, self._exported, self._call = runs, exported, call
        self._exporters, self._cure = exporters, cure
        self.exporter = exporters[0]
        for spec in call.inputs:
            check_dtype(spec)
        self.inputs = call.inputs
        self.reference = f"PyTorch {torch.__version__}"
        self.versions = {name: metadata.version(name) for name in ("torch", "onnxscript")}
        self.labels: dict[str, list[str]] = {}
        self.drawer: Drawer | None = None
        self.notes = notes

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model in PyTorch, without gradients."""
        with torch.no_grad():  # inference_mode would leave tensors in a module's caches that the exporters refuse
            result = self._result(_tensors(feeds))
        return {name: to_array(name, value) for name, value in named_tensors(result).items()}

    def value_limits(self, examples: Sequence[Mapping[str, Array]]) -> dict[str, Limits]:
        """Return the limits of indices and of images, as drawing.KnowsLimits."""
        images = image_limits(self._exported, self.inputs)
        return images | table_limits(self._result, [_tensors(feeds) for feeds in examples])

    def export(self, path: Path, example: Case, opset: int | None) -> None:
        """Write the model with the first exporter that can."""
        task = Export(
            model=self._exported,
            call=self._call,
            tensors=_tensors(example.feeds),
            outputs=len(self.run(example.feeds)),
            opset=opset or OPSET,
            path=path,
        )
        failures: list[str] = []
        for name in self._exporters:
            try:
                with torch.no_grad():
                    EXPORTERS[name](task)
            except Exception as error:  # exporters raise exceptions of any class
                failures.append(f"{name}: {first_cause(error)}")
                continue
            notes = (f"exported by {name} after a failure of {failure}" for failure in failures)
            self.notes += [note for note in notes if note not in self.notes]
            self.exporter = name
            return
        raise ExportFailed(f"PyTorch cannot export the model to ONNX ({'; '.join(failures)}); {self._cure}")

    def next_exporter(self) -> bool:
        """Leave out the exporters up to the one that wrote the last file, as attempts.HasExporters."""
        self._exporters = self._exporters[self._exporters.index(self.exporter) + 1 :]
        return bool(self._exporters)

    def inner_values(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the results of a module's parts, as narrowing.HasInnerValues."""
        if not isinstance(self._exported, nn.Module):
            return {}
        with recorded(self._exported) as values, torch.no_grad():
            self._result(_tensors(feeds))
        return values

    def _result(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        args, kwargs = self._call.arguments(tensors)
        return self._runs(*args, **kwargs)


def _tensors(feeds: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: to_tensor(array) for name, array in feeds.items()}


def _of_module(request: Request, module: nn.Module, notes: list[str]) -> TorchModel:
    path = request.class_path or ""
    images = preprocessing(path, module) if is_named(path) else None
    described = request.inputs or ((images.spec(),) if images else ())
    call = ModuleCall(inspect.signature(module.forward), described)
    cure = "rewrite the part of the model that the message names"
    model = TorchModel(module, module, call, exporters=(DYNAMO, LEGACY), cure=cure, notes=notes)
    if images and len(call.inputs) == 1:
        model.drawer = ImageDrawer(call.inputs[0], images, path)
    return model


def _of_script(request: Request) -> TorchModel:
    script = read_script(request.source)
    call = ModuleCall(script_signature(script), request.inputs)
    return TorchModel(script, script, call, exporters=(LEGACY,), cure=_FROM_CLASS, notes=[])


def _of_program(request: Request) -> TorchModel:
    if not request.trust_code:  # its pickled sample inputs and its guards are code (torch 2.13)
        raise BadRequest(f"{request.source}: a program of torch.export: {base.TRUST}")
    program = read_program(request.source)
    call = ProgramCall(program, request.inputs)
    if not call.frees_more:
        return TorchModel(program.module(), program, call, exporters=(DYNAMO,), cure=_FROM_CLASS, notes=[])

    module = program.module(check_guards=False)
    module.validate_inputs = False  # type: ignore[assignment]  # not a submodule
    cure = "save it with free axes: torch.export.export(..., dynamic_shapes=...)"

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return module(*args, **kwargs)
        except Exception as error:  # torch's own, of any class
            raise BadRequest(
                f"{request.source}: the program was saved with fixed sizes and does not run with others: "
                f"{one_line(error)}; {cure}"
            ) from error

    notes = ["the program was saved with fixed sizes; for other sizes the reference is the program without its guards"]
    return TorchModel(run, module, call, exporters=(DYNAMO,), cure=cure, notes=notes)
