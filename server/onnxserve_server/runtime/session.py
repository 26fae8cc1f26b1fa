"""One model in ONNX Runtime: load it, describe its inputs and outputs, run it."""

import contextlib
import ctypes
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from onnxserve.tensor import STORAGE, Array, DataType
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.rows.table import RANDOM
from onnxserve_server.runtime.arena import Arena, emptying, shared_arena
from onnxserve_server.runtime.axes import BatchAxes, assign_axes
from onnxserve_server.runtime.failures import MemoryRefused, failure_of
from onnxserve_server.runtime.interface import describe
from onnxserve_server.runtime.limits import check_inputs
from onnxserve_server.runtime.messages import cure_of_failure, one_line
from onnxserve_server.runtime.providers import CPU, CUDA

# A session or a run raises its error, and we report it. ONNX Runtime's logger would print it again, in colours, and
# also print errors of trials that are meant to fail. Parts without a session, such as a provider's library, still log.
_SILENT = 4

# An output is a piece of the arena for as long as anybody keeps it, and the whole piece of memory around it cannot be
# given back: that of a large run for a few bytes. Up to here a copy is cheap: some µs.
_SMALL = 64 << 10

# Ops whose time depends on the values they are given: they run a graph of their own, or not, or many times.
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}

_OPTIMIZATION = {
    "disable": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "layout": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a session is made.

    Attributes:
        providers: execution providers in order of preference, each with its options.
        allow_cpu_fallback: whether the CPU may stand in for a provider that is not available.
        threads: threads of one run, at least 1.
        graph_optimization: "disable", "basic", "extended", "layout" or "all".
        config: ONNX Runtime session configuration entries, such as {"session.set_denormal_as_zero": "1"}.
        arena: whether memory is kept for the next runs; else each allocation is the operating system's.
        custom_operators: paths of libraries that have them.
        axes: where the model's rows lie, as far as its configuration says.
        tolerance: how far a row may change with the other rows of its batch, as a share of its largest value; None: as
            far as its type rounds.
        report: the conversion report that says what realistic inputs are; "": report.json beside the model file.
    """

    providers: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {CPU: {}})
    allow_cpu_fallback: bool = False
    threads: int = 1
    graph_optimization: str = "all"
    config: Mapping[str, str] = field(default_factory=dict)
    arena: bool = True
    custom_operators: Sequence[str] = ()
    axes: BatchAxes = field(default_factory=BatchAxes)
    tolerance: float | None = None
    report: str = ""


class RunHandle:
    """Lets another thread stop a run. It ends between two nodes of the graph, with RunFailed."""

    __slots__ = ("options",)

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = _SILENT

    def stop(self) -> None:
        """Stop the run, now or as soon as it starts."""
        self.options.terminate = True


class Session:
    """A loaded model, of the file `path`, as `options` say. run() may be called from several threads at a time.

    Raises:
        ConfigurationError: the file cannot be loaded; an input or output is not a tensor, or lacks a configured axis;
            or a requested provider is not available and the CPU may not stand in for it.
    """

    def __init__(self, path: Path, options: SessionOptions) -> None:
        self.path, self.options = path, options
        providers = _available(path, options)
        if CUDA in providers:
            _load_cuda()
        try:
            # By path: from bytes ONNX Runtime would keep a second copy, and not find external data.
            self._session = onnxruntime.InferenceSession(
                str(path),
                _session_options(options, is_on_cpu=list(providers) == [CPU]),
                providers=list(providers),
                provider_options=[dict(values) for values in providers.values()],
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime has a class of its own for each of a dozen status codes
            raise ConfigurationError(
                f"{path}: ONNX Runtime cannot load it: {(text := one_line(error))}{cure_of_failure(path, text)}"
            ) from error
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        _check_granted(path, options, self.providers)
        interface = describe(path, self._session)
        self.inputs, self.outputs, self.metadata, self.ignored = assign_axes(
            options.axes, interface.inputs, interface.outputs, interface.metadata
        )
        self.optional, self.left_out, self.description = interface.optional, interface.left_out, interface.description
        self._names = interface.names
        check_inputs(path, self.inputs)
        ops = self._ops()
        # The time of a run depends on the number of rows alone: fixed row shapes, and no control flow.
        self.fixed_cost = not any(spec.has_free_axes for spec in self.inputs) and not ops & _CONTROL_FLOW
        self.is_random = bool(ops & RANDOM)
        self.provider_options: dict[str, str] = {
            f"{provider}.{name}": value
            for provider, values in self._session.get_provider_options().items()
            for name, value in values.items()
        }
        self._types = {spec.name: spec.data_type for spec in self.inputs + self.optional + self.outputs}
        self._has_run = False
        self._arena = Arena() if options.arena and self.providers == (CPU,) else None
        self._plain = all(_numpy_has(number) for number in self._types.values())
        if self._names and not self._plain:
            raise ConfigurationError(f"{path}: bfloat16 or float8 beside names that are not UTF-8; rename these")

    def _ops(self) -> set[str]:
        assignments = self._session.get_provider_graph_assignment_info()
        return {node.op_type for assignment in assignments for node in assignment.get_nodes()}

    def run(self, feeds: dict[str, Array], outputs: Sequence[str], handle: RunHandle | None = None) -> list[Array]:
        """Run the model once and return the arrays of the named outputs, each in its type's storage dtype.

        Raises:
            RunFailed: ONNX Runtime did not complete the run; ValuesRefused, MemoryRefused where it is known why.
        """
        run_options = (handle or RunHandle()).options
        arena = self._arena
        if arena is not None and arena.is_due(feeds.values()):
            self._empty_arena(feeds, outputs)
        try:
            arrays = self._run(feeds, outputs, run_options)
        except Exception as error:  # as above
            failure = failure_of(error, has_run=self._has_run)
            if not isinstance(failure, MemoryRefused) or arena is None:
                raise failure from error
            arrays = self._run_in_emptied_arena(feeds, outputs, run_options)
        self._has_run = True
        if arena is None:
            return arrays
        arena.note(arrays)
        return [array.copy() if array.nbytes <= _SMALL else array for array in arrays]

    def _run(self, feeds: dict[str, Array], outputs: Sequence[str], run_options: onnxruntime.RunOptions) -> list[Array]:
        if self._names:
            return self._run_with_names(feeds, outputs, run_options)
        if self._plain:
            return self._session.run(outputs, feeds, run_options)  # type: ignore[no-any-return]
        return self._run_with_foreign_types(feeds, outputs, run_options)

    def _run_in_emptied_arena(
        self, feeds: dict[str, Array], outputs: Sequence[str], run_options: onnxruntime.RunOptions
    ) -> list[Array]:
        """Run again after the memory was not enough, in case others had left some unused."""
        self._empty_arena(feeds, outputs)
        try:
            return self._run(feeds, outputs, run_options)
        except Exception as error:  # as above
            raise failure_of(error, has_run=self._has_run) from error

    def _empty_arena(self, feeds: dict[str, Array], outputs: Sequence[str]) -> None:
        with contextlib.suppress(Exception):  # it always fails
            self._run(feeds, outputs, emptying())

    def _run_with_names(self, feeds: dict[str, Array], outputs: Sequence[str], run_options: object) -> list[Array]:
        """Run a model with names that are not UTF-8, by their bytes, below onnxruntime's layer of Python."""
        raw = self._names
        inputs = {raw.get(name, name): array for name, array in feeds.items()}
        return self._session._sess.run(  # type: ignore[no-any-return]
            [raw.get(name, name) for name in outputs], inputs, run_options
        )

    def _run_with_foreign_types(
        self, feeds: dict[str, Array], outputs: Sequence[str], run_options: object
    ) -> list[Array]:
        """Run a model with bfloat16 or float8 tensors, which ONNX Runtime's numpy interface does not accept."""
        values = {name: self._to_value(array, self._types[name]) for name, array in feeds.items()}
        results = self._session.run_with_ort_values(outputs, values, run_options)
        return [_from_value(value, self._types[name]) for name, value in zip(outputs, results, strict=True)]

    def _to_value(self, array: Array, number: int) -> onnxruntime.OrtValue:
        if _numpy_has(number):
            return onnxruntime.OrtValue.ortvalue_from_numpy(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), number)


def _numpy_has(number: int) -> bool:
    return number < DataType.DATA_TYPE_BFLOAT16


def _from_value(value: onnxruntime.OrtValue, number: DataType) -> Array:
    if _numpy_has(number):
        return value.numpy()  # type: ignore[no-any-return]
    shape = tuple(value.shape())
    storage = STORAGE[number]
    content = ctypes.string_at(value.data_ptr(), math.prod(shape) * storage.itemsize)
    return np.frombuffer(content, storage).reshape(shape)


@functools.cache
def _load_cuda() -> None:
    """Load the CUDA and cuDNN libraries that onnxruntime-gpu[cuda,cudnn] installs: its provider does not look there."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints missing libraries, and stdout is for the ready line
        onnxruntime.preload_dlls()


def _session_options(requested: SessionOptions, *, is_on_cpu: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = requested.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _OPTIMIZATION[requested.graph_optimization]
    options.enable_cpu_mem_arena = requested.arena
    options.enable_mem_pattern = False  # patterns are kept for each shape, and batches have many
    options.log_severity_level = _SILENT
    # A spinning pool takes the cores that the other models and the edge need.
    entries = {
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "0",
        **(shared_arena() if requested.arena and is_on_cpu else {}),
        **requested.config,
        "session.record_ep_graph_assignment_info": "1",  # _ops() reads it
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    for library in requested.custom_operators:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:  # as in Session
            raise ConfigurationError(
                f"{library}: ONNX Runtime cannot use it as a library of custom operators: {one_line(error)}; build it "
                f"for onnxruntime {onnxruntime.__version__} and this machine, with all that it links to"
            ) from error
    return options


def _available(path: Path, options: SessionOptions) -> dict[str, Mapping[str, str]]:
    """Return the requested providers that this build of ONNX Runtime has."""
    compiled_in = onnxruntime.get_available_providers()
    missing = [provider for provider in options.providers if provider not in compiled_in]
    if missing and not options.allow_cpu_fallback:
        raise ConfigurationError(
            f"{path}: requests {', '.join(missing)}, but this onnxruntime has only {', '.join(compiled_in)}; "
            f"install onnxserve[gpu] in place of onnxserve[cpu], set other providers, or set allow_cpu_fallback"
        )
    return {provider: values for provider, values in options.providers.items() if provider not in missing}


def _check_granted(path: Path, options: SessionOptions, granted: Sequence[str]) -> None:
    """Compare the requested providers with those of the session: ONNX Runtime itself replaces one by the CPU."""
    missing = [provider for provider in options.providers if provider not in granted]
    if missing and not options.allow_cpu_fallback:
        raise ConfigurationError(
            f"{path}: requests {', '.join(missing)}, but ONNX Runtime could only load {', '.join(granted)} here "
            f"(its own message is on stderr); repair the driver or the libraries, or set allow_cpu_fallback"
        )
