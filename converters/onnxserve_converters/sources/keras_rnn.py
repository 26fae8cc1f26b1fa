"""Gives Keras layers over sequences a free length under torch.export.

On its torch backend Keras 3.15 runs recurrent and time-distributed layers as a loop in Python, which is unrolled for
the one length that an exporter sees. Here LSTM and GRU become torch's own operations, by the functions that that
backend uses on a GPU; every other recurrent layer becomes a scan over its step; and a time-distributed layer
takes all steps as rows of one batch.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import torch
from torch._higher_order_ops.scan import scan
from torch.fx.experimental.proxy_tensor import make_fx

from onnxserve_converters.errors import BadRequest

_BACKEND = importlib.import_module("keras.src.backend.torch.rnn")  # the package has a function of that name
_NEEDED = ((_BACKEND, "_cudnn_lstm"), (_BACKEND, "_cudnn_gru"), (keras.layers.RNN, "inner_loop"))


@contextlib.contextmanager
def free_length(run: Callable[[], object]) -> Iterator[None]:
    """Replace the loops until the block ends.

    Args:
        run: runs the model once, while the steps of its recurrent layers are recorded.

    Raises:
        BadRequest: the installed version of Keras has other loops.
    """
    if missing := [name for owner, name in _NEEDED if not hasattr(owner, name)]:
        raise BadRequest(
            f"Keras {keras.__version__} has no {missing[0]}, which the export of recurrent layers needs; install "
            "another version: pip install 'keras>=3.15,<3.16'"
        )
    steps: dict[tuple[int, bool], _Step] = {}
    loop = keras.layers.RNN.inner_loop

    def run_or_scan(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        is_on = None if _first(mask) is None else _first(mask).bool()
        key = id(layer), is_on is None
        if torch.compiler.is_exporting() and key in steps:
            return steps[key].scan(sequences, initial_state, is_on)
        with contextlib.suppress(Exception):  # a step that cannot be recorded stays in its loop
            steps[key] = _Step(layer, sequences, initial_state, is_on)
        return loop(layer, sequences, initial_state, mask, training)

    replacements = (
        (keras.layers.RNN, "inner_loop", run_or_scan),
        (keras.layers.LSTM, "inner_loop", _lstm),
        (keras.layers.GRU, "inner_loop", _gru),
        (keras.layers.TimeDistributed, "call", _time_distributed),
    )
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    try:
        for owner, name, replacement in replacements:
            setattr(owner, name, replacement)
        run()
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


class _Step:
    """One step of a recurrent layer, as a graph of torch operations.

    Args:
        layer: a keras.layers.RNN.
        sequences: an example of its input, [rows, steps, ...].
        initial_state: its states, in any nesting.
        mask: bool [rows, steps], or None.
    """

    def __init__(self, layer: Any, sequences: Any, initial_state: Any, mask: Any) -> None:
        self._layer = layer
        states = keras.tree.flatten(initial_state)
        training = {"training": False} if "training" in inspect.signature(layer.cell.call).parameters else {}

        def step(x: Any, is_on: Any, previous: Any, *states: Any) -> list[Any]:
            output, new = layer.cell(x, keras.tree.pack_sequence_as(initial_state, list(states)), **training)
            new = keras.tree.flatten(new)
            if is_on is not None:
                output = _where(is_on, output, torch.zeros_like(output) if layer.zero_output_for_mask else previous)
                new = [_where(is_on, after, before) for after, before in zip(new, states, strict=True)]
            return [value.clone() for value in (output, *new)]  # a scan refuses values that share memory

        x, is_on = sequences[:, 0], None if mask is None else mask[:, 0]
        first = step(x, None, None, *states)[0]
        self._output_shape, self._output_dtype = first.shape[1:], first.dtype
        trace = make_fx(step, tracing_mode="symbolic", _allow_non_fake_inputs=True)
        self._graph = trace(x, is_on, torch.zeros_like(first), *states)
        self._weights = dict(self._graph.named_parameters()) | dict(self._graph.named_buffers())
        for name in self._weights:
            delattr(self._graph, name)

    def scan(self, sequences: Any, initial_state: Any, mask: Any) -> Any:
        """Run the step over all steps, as one operation."""
        for name, weight in self._weights.items():
            setattr(self._graph, name, weight.clone())  # a clone is exported; a constant is not
        xs = [x.transpose(0, 1) for x in (sequences, mask) if x is not None]
        if self._layer.go_backwards:
            xs = [x.flip(0) for x in xs]
        previous = sequences.new_zeros((sequences.shape[0], *self._output_shape), dtype=self._output_dtype)

        def combine(carry: list[Any], x: list[Any]) -> tuple[list[Any], Any]:
            output, *states = self._graph(x[0], x[1] if len(x) > 1 else None, carry[0], *carry[1:])
            return [output, *states], output.clone()

        (last, *states), outputs = scan(combine, [previous, *keras.tree.flatten(initial_state)], xs)
        return last, outputs.transpose(0, 1), keras.tree.pack_sequence_as(initial_state, states)


def _lstm(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    if _first(mask) is not None or not _is_standard(layer):
        return keras.layers.RNN.inner_loop(layer, sequences, initial_state, mask, training)
    x, kernel, recurrent, bias = _prepared(layer, sequences)
    bias = kernel.new_zeros(kernel.shape[1]) if bias is None else bias
    return _BACKEND._cudnn_lstm(x, *initial_state, kernel, recurrent, bias, True, x.device)


def _gru(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    if _first(mask) is not None or not (_is_standard(layer) and layer.reset_after):
        return keras.layers.RNN.inner_loop(layer, sequences, initial_state, mask, training)
    x, kernel, recurrent, bias = _prepared(layer, sequences)
    bias = kernel.new_zeros((2, kernel.shape[1])) if bias is None else bias
    return _BACKEND._cudnn_gru(x, *initial_state, kernel, recurrent, bias, True, x.device)


def _time_distributed(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """Stand in for TimeDistributed.call: all steps of all rows are rows of one batch."""
    inner = layer.layer
    options = {"training": training} if inner._call_has_training_arg else {}
    if mask is not None and inner._call_has_mask_arg:
        options["mask"] = mask.reshape(-1, *mask.shape[2:])
    outputs = inner.call(inputs.reshape(-1, *inputs.shape[2:]), **options)
    return outputs.reshape(inputs.shape[0], inputs.shape[1], *outputs.shape[1:])


def _is_standard(layer: Any) -> bool:
    """Whether an LSTM or GRU has the same activations as torch's."""
    return layer.activation is keras.activations.tanh and layer.recurrent_activation is keras.activations.sigmoid


def _prepared(layer: Any, sequences: Any) -> tuple[Any, Any, Any, Any]:
    """Return the sequences in the layer's order and dtype, its kernel, recurrent kernel, and bias (None without)."""
    weights = layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias
    tensors: list[Any] = [None if weight is None else keras.ops.convert_to_tensor(weight) for weight in weights]
    kernel, recurrent, bias = tensors
    x = sequences.flip(1) if layer.go_backwards else sequences
    return x.to(kernel.dtype), kernel, recurrent, bias


def _first(mask: Any) -> Any:
    """Return the mask of the sequence, without those of the states."""
    return keras.tree.flatten(mask)[0] if mask is not None else None


def _where(is_on: Any, then: Any, otherwise: Any) -> Any:
    return torch.where(is_on[(..., *[None] * (then.ndim - 1))], then, otherwise)
