"""The description of a model, as a server gives it."""

from dataclasses import asdict, dataclass
from typing import Any

from onnxserve.tensor import NAMES
from onnxserve.v1 import model_service_pb2, tensor_pb2

_STATES = {number: name.removeprefix("MODEL_STATE_") for name, number in model_service_pb2.ModelState.items()}
_ROWS = {number: name.removeprefix("ROWS_") for name, number in model_service_pb2.RowVerdict.Rows.items()}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    """The name to use in predict()."""
    dtype: str
    """The name of the numpy (or ml_dtypes) dtype, such as "float32"; "string" for strings."""
    shape: tuple[int | str | None, ...]
    """The size of each axis, outermost first; for a free axis its name, or None if it has none. () for a scalar."""
    labels: tuple[str, ...]
    """For an output whose last axis has a score for each class: the name of each class. () if unknown."""
    batch_axis: int | None = 0
    """If batching is enabled: the axis along which rows of several requests are concatenated. None for an input without
    such an axis: requests share a run only if their values of it are equal; and for an output that is the same for all
    rows: each request gets all of it."""
    any_shape: bool = False
    """Whether the model declares no shape for it: `shape` is (), and an input is taken in any shape."""
    optional: bool = False
    """For an input: whether predict() may leave it out, because the model has a default for it."""


@dataclass(frozen=True, kw_only=True)
class RowVerdict:
    """Whether the rows of a run can change each other's outputs, and how that is known."""

    rows: str
    """"INDEPENDENT": the graph shows that they cannot. "MEET": they reach a node together and may change each other
    there. "DEPENDENT": a row was seen to change with its neighbours. "UNKNOWN": the graph does not show it, and no
    change was seen. "UNSPECIFIED": an older server does not say."""
    reason: str
    """A sentence that names the node or the row. "" if there is nothing to say."""
    node: str
    """The name of the node that decided. "" if none did."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing about an input of a request."""

    input: str
    """The name of the input."""
    axis: int | None
    """The axis that it is about. None: it is about the elements."""
    value: int
    """It holds if the axis has this size, or if any element has this value."""

    def __str__(self) -> str:
        what = "an element" if self.axis is None else f"the size of axis {self.axis}"
        return f"{what} of {self.input} is {self.value}"


@dataclass(frozen=True, kw_only=True)
class InputRule:
    """Requests that the server refuses, because a kernel of the model would end its process on them."""

    conditions: tuple[Condition, ...]
    """A request is refused with InvalidArgument if all of these hold."""
    reason: str
    """What the server saw when it tried such a request, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How requests of different callers are batched into one run of a model."""

    enabled: bool
    """Whether requests are batched."""
    reason: str
    """Why they are not, in a sentence. "" if enabled."""
    max_rows: int
    """The limit of rows in one run."""
    max_delay_us: int
    """How long the oldest request may wait for others to share its run, in microseconds."""
    max_queue_rows: int
    """The limit of rows in the queue."""
    max_queue_bytes: int
    """The limit of input bytes in the queue."""
    rows: RowVerdict = RowVerdict(rows="UNSPECIFIED", reason="", node="")
    """Whether requests that share a run can change each other's outputs."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The execution providers, instances and threads that run a model."""

    requested_providers: tuple[str, ...]
    """The execution providers that the configuration asks for, in order of preference."""
    providers: tuple[str, ...]
    """The execution providers that the session has in fact."""
    instances: int
    """The number of runs at a time."""
    threads: int
    """The number of threads that one run may use."""
    options: dict[str, str]
    """Provider options in force, as "provider.option"."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One version of a model: its inputs and outputs, and how it is run."""

    name: str
    """The model's name in the repository."""
    version: str
    """The version's name in the repository."""
    state: str
    """"LOADING", "READY" or "STOPPED"."""
    inputs: tuple[TensorSpec, ...]
    """The inputs. A request must have all of them, but optional ones and those that hold the state of a sequence."""
    outputs: tuple[TensorSpec, ...]
    """The outputs."""
    batching: Batching
    """How requests are batched."""
    runtime: Runtime
    """The execution providers, instances and threads."""
    metadata: dict[str, str]
    """The metadata of the model file (ONNX metadata_props)."""
    description: str
    """The description in the model file. "" if it has none."""
    rules: tuple[InputRule, ...] = ()
    """What a request must not hold. () for most models."""
    left_out: tuple[str, ...] = ()
    """The outputs of the model file that are not served, because they are not tensors or of a type that cannot be sent:
    each with its type."""
    untried: str = ""
    """Which requests that might end the server's process it has not tried before it served the model, and why. "" if it
    has tried all."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dicts, tuples, strings and numbers, ready for json."""
        return asdict(self)


def model_info(model: model_service_pb2.Model) -> ModelInfo:
    """Read a Model message."""
    batching, runtime = model.batching, model.runtime
    return ModelInfo(
        name=model.name,
        version=model.version,
        state=_STATES.get(model.state, str(model.state)),
        inputs=tuple(map(_tensor_spec, model.inputs)),
        outputs=tuple(map(_tensor_spec, model.outputs)),
        batching=Batching(
            enabled=batching.enabled,
            reason=batching.reason,
            max_rows=batching.max_rows,
            max_delay_us=batching.max_delay_us,
            max_queue_rows=batching.max_queue_rows,
            max_queue_bytes=batching.max_queue_bytes,
            rows=RowVerdict(
                rows=_ROWS.get(batching.rows.rows, str(batching.rows.rows)),
                reason=batching.rows.reason,
                node=batching.rows.node,
            ),
        ),
        runtime=Runtime(
            requested_providers=tuple(runtime.requested_providers),
            providers=tuple(runtime.providers),
            instances=runtime.instances,
            threads=runtime.threads,
            options=dict(runtime.options),
        ),
        metadata=dict(model.metadata),
        description=model.description,
        rules=tuple(map(_rule, model.rules)),
        left_out=tuple(model.left_out),
        untried=model.untried,
    )


def _rule(rule: model_service_pb2.InputRule) -> InputRule:
    return InputRule(
        conditions=tuple(
            Condition(input=each.input, axis=each.axis if each.axis >= 0 else None, value=each.value)
            for each in rule.conditions
        ),
        reason=rule.reason,
    )


def _tensor_spec(spec: tensor_pb2.TensorSpec) -> TensorSpec:
    return TensorSpec(
        name=spec.name,
        dtype=NAMES.get(spec.data_type, str(spec.data_type)),  # a newer server may know more types
        shape=tuple(axis.size if axis.size >= 0 else axis.name or None for axis in spec.shape),
        labels=tuple(spec.labels),
        batch_axis=spec.batch_axis if spec.batch_axis >= 0 else None,
        any_shape=spec.any_shape,
        optional=spec.optional,
    )
