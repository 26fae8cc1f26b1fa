"""A Keras model as a PyTorch module: its inputs and outputs, run and export."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import torch
from torch import nn

from onnxserve.tensor import Array
from onnxserve_converters.cases import Case, Cases
from onnxserve_converters.drawing import Drawer, Limits
from onnxserve_converters.errors import BadRequest, ConverterError, ExportFailed, one_line
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.request import Request
from onnxserve_converters.sources.declared import Declared, complete
from onnxserve_converters.sources.keras_models import SAVED_MODEL, forget_states, load_weights
from onnxserve_converters.sources.keras_rnn import free_length
from onnxserve_converters.sources.keras_strings import Strings, TokenDrawer
from onnxserve_converters.sources.torch import TorchModel
from onnxserve_converters.sources.torch_calls import Arguments, ModuleCall
from onnxserve_converters.sources.torch_exporters import DYNAMO
from onnxserve_converters.sources.torch_values import check_dtype, to_tensor

Arrangement = Callable[[Sequence[Any]], Arguments]
"""Turns the inputs into the arguments of a model."""

_CURE = f"fix the axes that need not be free with --input, or {SAVED_MODEL}"


class KerasModel:
    """A model that Keras runs on PyTorch; implements sources.base.Model.

    Args:
        request: the options of the conversion.
        model: a keras.Model, without its weights.
        weights: their file.
        notes: on how it was loaded.

    Raises:
        BadRequest: the inputs are described wrongly, or the weights do not fit the model.
    """

    def __init__(self, request: Request, model: Any, weights: Path, notes: list[str]) -> None:
        if stateful := forget_states(model):
            notes.append(f"{', '.join(stateful)}: states are not kept between calls; each call begins with zeros")
        if not _is_graph(model) and not request.inputs:
            notes.append("the input is assumed to be float32, of the shape of the model's first call")
        self.inputs = _inputs(request, model)
        if _is_graph(model):
            module = _Module(model, lambda tensors: ((_packed(model, tensors),), {}), _output_names(model))
        else:
            example = Cases(self.inputs, request.sizes, request.ranges, None).example()
            module = _Module(model, _build(model, self.inputs, example), [])
        load_weights(model, weights)
        call = ModuleCall(inspect.signature(module.forward), self.inputs)
        self._torch = TorchModel(module, module.eval(), call, exporters=(DYNAMO,), cure=_CURE, notes=notes)
        self.reference = f"Keras {keras.__version__} on {self._torch.reference}"
        self.versions = {"keras": keras.__version__} | self._torch.versions
        self.labels: dict[str, list[str]] = {}
        self.drawer: Drawer | None = None
        self.assets: Mapping[str, Path | str] = {}
        self.notes = notes

    def keep(self, strings: Strings) -> None:
        """Take the vocabularies of layers that were cut off: they are published, and inputs drawn by them."""
        if strings.vocabularies:
            self.assets = strings.assets()
            self.drawer = TokenDrawer(strings.vocabularies, {spec.name: spec.shape for spec in self.inputs})

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model as for inference: without dropout, augmentation or gradients."""
        return self._torch.run(feeds)

    def value_limits(self, examples: Sequence[Mapping[str, Array]]) -> dict[str, Limits]:
        """Return the limits of indices, as drawing.KnowsLimits."""
        return self._torch.value_limits(examples)

    def export(self, path: Path, example: Case, opset: int | None) -> None:
        """Export through torch.export; the length of recurrent layers stays free."""
        try:
            with free_length(lambda: self._torch.run(example.feeds)):
                self._torch.export(path, example, opset)
        except ConverterError:
            raise
        except Exception as error:  # a layer may fail with its loop replaced
            raise ExportFailed(
                f"Keras {keras.__version__} cannot run the model for its export: {one_line(error)}"
            ) from error


class _Module(nn.Module):
    """A Keras model that takes its inputs one by one, and returns its outputs by name where names are known."""

    def __init__(self, model: Any, arrange: Arrangement, names: Sequence[str]) -> None:
        super().__init__()
        self._model, self._arrange, self._names = model, arrange, names

    def forward(self, *tensors: torch.Tensor) -> Any:
        args, kwargs = self._arrange(tensors)
        result = self._model(*args, **kwargs, training=False)
        if isinstance(result, dict) or not self._names:
            return result
        return dict(zip(self._names, keras.tree.flatten(result), strict=True))


def _is_graph(model: Any) -> bool:
    """Whether a model declares its inputs and outputs: a functional one, or a Sequential with a known input."""
    return bool(getattr(model, "inputs", None))


def _packed(model: Any, tensors: Sequence[Any]) -> Any:
    """Return the inputs in the structure that a graph expects."""
    return keras.tree.pack_sequence_as(model.input, list(tensors)) if hasattr(model, "input") else tensors[0]


def _output_names(model: Any) -> list[str]:
    """Return the names of a graph's output layers, numbered where a layer has several outputs."""
    names = getattr(model, "output_names", None) or [model.layers[-1].name] * len(model.outputs)
    return [f"{name}_{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def _inputs(request: Request, model: Any) -> tuple[InputSpec, ...]:
    if _is_graph(model):
        tensors = keras.tree.flatten(model.inputs)
        own = [_declared(tensor._keras_history.operation.name, tensor.dtype, tensor.shape) for tensor in tensors]
    elif request.inputs:
        own = [Declared(spec.name, spec.dtype, None) for spec in request.inputs]
    else:
        own = [_as_built(request, model)]
    if len(own) == len(request.inputs) == 1:  # Keras made up the name alone
        own = [dataclasses.replace(own[0], name=request.inputs[0].name)]
    for declared in own:
        if declared.dtype == "string":
            raise BadRequest(
                f"{request.source}: input {declared.name} is of strings, which PyTorch does not support; {SAVED_MODEL}"
            )
    specs = complete(request.source, own, request.inputs)
    for spec in specs:
        check_dtype(spec)
    return specs


def _declared(name: str, dtype: str, shape: Sequence[int | None]) -> Declared:
    """Return an input with a free batch axis, whatever size the model was built with."""
    return Declared(name, dtype, (None, *shape[1:]) if shape else ())


def _as_built(request: Request, model: Any) -> Declared:
    """Return the input of a model without a graph, from its first call."""
    name = next(iter(inspect.signature(model.call).parameters))
    shape = (model.get_build_config() or {}).get("input_shape")
    if not shape or not all(axis is None or isinstance(axis, int) for axis in shape):
        raise BadRequest(
            f"{request.source}: the model does not declare its inputs; describe them, such as "
            f"--input {name}=float32[batch,10]"
        )
    return _declared(name, "float32", shape)


def _build(model: Any, inputs: Sequence[InputSpec], example: Case) -> Arrangement:
    """Call a model without a graph, which creates its variables, and return the arrangement that it accepts.

    Raises:
        BadRequest: it accepts these inputs in no arrangement.
    """
    tensors = [to_tensor(example.feeds[spec.name]) for spec in inputs]
    failures = []
    for arrange in _arrangements(model, [spec.name for spec in inputs]):
        args, kwargs = arrange(tensors)
        try:
            with torch.no_grad():
                model(*args, **kwargs, training=False)
        except Exception as error:  # the model's own, of any class
            failures.append(one_line(error))
            continue
        return arrange
    raise BadRequest(
        f"the model cannot be called with {', '.join(map(str, inputs))}: {failures[0]}; describe all its inputs with "
        "--input, by the parameter names of its call()"
    )


def _arrangements(model: Any, names: Sequence[str]) -> Iterator[Arrangement]:
    if set(names) <= set(inspect.signature(model.call).parameters):
        yield lambda tensors: ((), dict(zip(names, tensors, strict=True)))
    elif len(names) > 1:
        yield lambda tensors: ((dict(zip(names, tensors, strict=True)),), {})
        yield lambda tensors: ((list(tensors),), {})
    yield lambda tensors: (tuple(tensors), {})
