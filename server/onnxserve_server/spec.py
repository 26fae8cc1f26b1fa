"""A model as described by its file and configuration: tensors, batching, state.

Once it is loaded, nothing of it changes, except that its batching may stop: then a new spec takes the old one's place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, TypeVar

from onnxserve.tensor import Array, DataType

MAX_TENSORS = 4096  # of a request
MAX_OPTIONAL = 64  # inputs with a default; a model that has more was exported with its weights as inputs

_Size = TypeVar("_Size", int, int | str)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output of a model. In `shape` an int is a fixed size, a str names a free axis ("" if nameless).

    `batch_axis` is the axis that rows lie along; None for a tensor without one, which all rows of a run share.
    `any_shape`: the model declares none, and `shape` is (). `default`: what an input is where a request leaves it out.
    """

    name: str
    data_type: DataType
    shape: tuple[int | str, ...]
    labels: tuple[str, ...] = ()
    batch_axis: int | None = 0
    any_shape: bool = False
    default: Array | None = field(default=None, compare=False, repr=False)

    @property
    def has_free_axes(self) -> bool:
        """Whether an axis beside the batch axis is free."""
        return self.any_shape or any(isinstance(size, str) for size in self.row_of(self.shape))

    def row_of(self, shape: tuple[_Size, ...]) -> tuple[_Size, ...]:
        """Return a shape of this tensor without the batch axis; all of it if shared."""
        axis = self.batch_axis
        return shape if axis is None else shape[:axis] + shape[axis + 1 :]

    def cut(self, array: Array, first: int, last: int) -> Array:
        """Return the rows from `first` up to `last` of an array of this tensor, as a view; all of it if shared."""
        if self.batch_axis is None:
            return array
        return array[(*[slice(None)] * self.batch_axis, slice(first, last))]

    def repeat(self, array: Array, times: int) -> Array:
        """Return an array of this tensor with each row so many times; as it is if shared."""
        return array if self.batch_axis is None else array.repeat(times, self.batch_axis)

    def filled(self, rows: int, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of so many rows whose other free axes have `sizes`, which has one for each axis.

        Where the batch axis has a fixed size, that is the number of rows.
        """
        return tuple(
            size if isinstance(size, int) else rows if axis == self.batch_axis else sizes[axis]
            for axis, size in enumerate(self.shape)
        )


class Rows(StrEnum):
    """Whether the rows of a run can change each other's outputs."""

    INDEPENDENT = "independent"  # proved: the graph shows that they cannot
    MEET = "meet"  # they reach a node together, and may change each other there
    DEPENDENT = "dependent"  # a row was seen to change with its neighbours, or their number with the rows of the batch
    UNKNOWN = "unknown"  # the graph does not show it, and no change was seen


@dataclass(frozen=True, slots=True)
class RowVerdict:
    """What is known of the rows of a model. `reason`: a sentence; `node`: the name of the node that decided."""

    rows: Rows = Rows.UNKNOWN
    reason: str = ""
    node: str = ""


class Condition(NamedTuple):
    """One thing about an input: its `axis` has the size `value`; where `axis` is None, an element is `value`."""

    input: str
    axis: int | None
    value: int

    def holds(self, array: Array) -> bool:
        """Whether it does for this array of the input."""
        return bool((array == self.value).any()) if self.axis is None else array.shape[self.axis] == self.value

    def __str__(self) -> str:
        if self.axis is None:
            return f"an element of input {self.input!r} is {self.value}"
        return f"axis {self.axis} of input {self.input!r} has the size {self.value}"


@dataclass(frozen=True, slots=True)
class InputRule:
    """Requests for which all conditions hold are refused: a kernel ended the process. `reason`: a sentence on how."""

    conditions: tuple[Condition, ...]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPolicy:
    """How the requests for a model are put together and how many may wait.

    Attributes:
        enabled: whether requests share runs; `reason` says why not.
        stopped: whether they did until their rows were seen to depend on each other.
        max_rows: most rows of one run; at least 1.
        max_delay: longest wait of the oldest job for batch-mates while an executor is free, in seconds.
        max_queue_rows: most rows that may wait.
        max_queue_bytes: most bytes of input that may wait.
        ageing: seconds of waiting that are worth one step of priority.
        split: whether a request of more than max_rows is split into several runs (else it is refused).
        rows: whether the rows of a run can change each other's outputs.
        tolerance: how far a row may change with its neighbours, as a share of its largest magnitude, beyond rounding.
        spot_checks: the share of the run time that spot checks of that may take; 0 for none.
    """

    enabled: bool
    reason: str = ""
    stopped: bool = False
    max_rows: int = 64
    max_delay: float = 0.0
    max_queue_rows: int = 4096
    max_queue_bytes: int = 256 << 20
    ageing: float = 1.0
    split: bool = True
    rows: RowVerdict = RowVerdict()
    tolerance: float = 0.0
    spot_checks: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class StatePair:
    """An input that the server fills with an output of the sequence's step before.

    `initial`: the value of every element at the first step, or one row of them, without its batch axis.
    """

    input: TensorSpec
    output: TensorSpec
    initial: float | Array = 0.0


class Feedback(NamedTuple):
    """An output that is an input of the next run of a request with several steps."""

    output: TensorSpec
    input: TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencePolicy:
    """How much state is kept: for `max_live` sequences at a time, each for `idle` seconds after its last step."""

    max_live: int = 4096
    idle: float = 300.0


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model's inputs and outputs, its batching and its runtime.

    `fixed_cost`: its run time depends on the number of rows alone, not on their values.
    `state`: its state pairs; empty for most models.
    `feedback`: outputs that let it run several steps for one request; empty for most models.
    `rules`: what no request may hold; empty for most models.
    `needs_rows`: a run without any row would end the process: requests without rows are run with one row of zeros.
    `untried`: which requests that a kernel might die of were not tried, and why; "" if all were.
    `left_out`: outputs of the file that cannot be served, each with its type.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batching: BatchPolicy
    requested_providers: tuple[str, ...]
    providers: tuple[str, ...]
    provider_options: Mapping[str, str] = field(default_factory=dict)
    instances: int = 1
    threads: int = 1
    fixed_cost: bool = True
    state: tuple[StatePair, ...] = ()
    sequences: SequencePolicy = SequencePolicy()
    feedback: tuple[Feedback, ...] = ()
    rules: tuple[InputRule, ...] = ()
    untried: str = ""
    needs_rows: bool = False
    left_out: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    @property
    def rows_first(self) -> bool:
        """Whether the rows of every input and output lie along its first axis, as they mostly do."""
        return all(tensor.batch_axis == 0 for tensor in self.inputs + self.outputs)


def without_batching(spec: ModelSpec, reason: str) -> ModelSpec:
    """Return the spec of a model whose rows were seen to depend on each other; `reason` is a sentence that says so."""
    verdict = RowVerdict(Rows.DEPENDENT, reason, spec.batching.rows.node)
    policy = replace(spec.batching, enabled=False, stopped=True, reason=reason, max_rows=1, rows=verdict)
    return replace(spec, batching=policy)
