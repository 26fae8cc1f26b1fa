"""model.yaml: how an operator configures one model. Every key is optional; defaults come from the graph itself."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.yaml_file import read_mapping
from onnxserve_server.runtime.providers import parse_providers

FILE_NAME = "model.yaml"

MAX_ROWS = 2**31 - 1  # what GetModel can say of any count of rows
MAX_BYTES = 2**63 - 1
MAX_THREADS = 1024
_MAX_MS = 31 * 86_400_000


class BatchingConfig(BaseModel):
    """How requests share runs. Keys that are left out have the value of the server's settings, else these defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool | Literal["proved"] | None = Field(
        None,
        description="true: batch although rows may change each other; proved: batch only if the graph shows that they "
        "cannot; false: one request at a time; default: batch unless rows meet in the graph or were seen to change",
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="how far a row may change with the other rows of its batch, as a share of its largest value; "
        "default: as far as its type rounds",
    )
    max_rows: int = Field(64, ge=1, le=MAX_ROWS, description="maximum rows of one run")
    max_delay_us: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="how long the oldest request may wait for others while an executor is free, in µs",
    )
    max_queue_rows: int = Field(4096, ge=1, le=MAX_ROWS, description="maximum rows that may wait")
    max_queue_bytes: int = Field(256 << 20, ge=1, le=MAX_BYTES, description="maximum bytes of input that may wait")
    ageing_ms: int = Field(1000, ge=1, le=_MAX_MS, description="waiting time that is worth one step of priority, in ms")
    oversize: Literal["split", "refuse"] = Field(
        "split",
        description="a request of more than max_rows: split it into several runs and join the answers, or refuse it",
    )
    spot_checks: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of the model's run time that spot checks may take, which run rows of batches again alone; "
        "0: none",
    )

    @field_validator("enabled", mode="before")
    @classmethod
    def _take_proved(cls, value: object) -> object:
        if not isinstance(value, bool) and value not in (None, "proved"):
            raise ValueError("must be true, false or proved")
        return value


class StateConfig(BaseModel):
    """An input that is an output of the sequence's previous step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str
    output: str
    initial: float | str = Field(0.0, description="zeros, a number, or an .npy file beside model.yaml: one row")

    @field_validator("initial", mode="before")
    @classmethod
    def _take_zeros(cls, value: object) -> object:
        if value == "zeros":
            return 0.0
        if not isinstance(value, (int, float)) and not str(value).endswith(".npy"):
            raise ValueError("must be zeros, a number, or the name of an .npy file")
        return value


class CustomOperatorsConfig(BaseModel):
    """A library of custom operators."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="the library, within the repository; relative to the model's directory")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="the SHA-256 of the library, in hexadecimal digits")


class SequencesConfig(BaseModel):
    """How much state of a stateful model is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max: int = Field(4096, ge=1, le=MAX_ROWS, description="maximum sequences whose state is kept at the same time")
    idle_ms: int = Field(
        300_000, ge=1, le=_MAX_MS, description="how long the state is kept after a sequence's last step, in ms"
    )


class ModelConfig(BaseModel):
    """One model's configuration, from its model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batching: BatchingConfig = BatchingConfig()
    instances: int = Field(1, ge=1, le=64, description="runs at the same time")
    threads: int | None = Field(None, ge=1, le=MAX_THREADS, description="threads that one run may use")
    providers: Annotated[
        dict[str, dict[str, str]] | None,
        Field(description="execution providers by preference: a name, a list, or a mapping of names to their options"),
    ] = None
    allow_cpu_fallback: bool | None = Field(
        None, description="whether the CPU may be used where a requested provider is not available"
    )
    graph_optimization: Literal["disable", "basic", "extended", "layout", "all"] = Field(
        "all", description="how far ONNX Runtime optimizes the graph"
    )
    arena: bool = Field(
        True, description="whether ONNX Runtime keeps memory for the next runs; `false` gives it back after each run"
    )
    session_config: dict[str, str] = Field(
        default_factory=dict, description="ONNX Runtime session configuration entries"
    )
    custom_operators: tuple[CustomOperatorsConfig, ...] = Field(
        (), description="libraries of custom operators: `[{path: ../ops.so, sha256: 9f86...}]`"
    )
    batch_axis: Annotated[
        dict[str, int] | None,
        Field(description="the axis of the rows, for inputs and outputs where it is not the first: `{state: 1}`"),
    ] = None
    shared: Annotated[
        list[str] | None,
        Field(description="inputs without rows: requests share a run only where these are equal: `[sr]`"),
    ] = None
    state: Annotated[
        Literal["auto"] | list[StateConfig] | None,
        Field(description="inputs that are outputs of a sequence's previous step; auto: recognized by their names"),
    ] = None
    sequences: SequencesConfig = SequencesConfig()
    feedback: Annotated[
        dict[str, str] | None,
        Field(
            description="outputs that become inputs of the next run of a request with several steps: `{next_id: id}`"
        ),
    ] = None
    labels: dict[str, list[str]] = Field(
        default_factory=dict, description="class names of an output: `{probabilities: [cat, dog]}`"
    )
    versions: Literal["latest", "all"] | Annotated[list[str], Field(min_length=1)] = Field(
        "latest", description='which versions are served: latest, all, or a list such as `["3", "7"]`'
    )

    @model_validator(mode="after")
    def _bound_threads(self) -> Self:
        if (self.threads or 1) * self.instances > MAX_THREADS:
            raise ValueError(
                f"instances: {self.instances} and threads: {self.threads} are {self.instances * (self.threads or 1)} "
                f"threads at the same time; at most {MAX_THREADS} are allowed, and more than the CPUs gain nothing"
            )
        return self

    @field_validator("providers", mode="before")
    @classmethod
    def _parse_providers(cls, value: object) -> object:
        return None if value is None else parse_providers(value)

    @field_validator("versions", mode="before")
    @classmethod
    def _take_numbers(cls, value: object) -> object:
        if isinstance(value, list) and value:
            return [str(version) for version in value]
        if value not in ("latest", "all"):
            raise ValueError("must be latest, all, or a list of version numbers")
        return value

    @field_validator("state", mode="before")
    @classmethod
    def _take_pairs(cls, value: object) -> object:
        if value not in (None, "auto") and not (isinstance(value, list) and all(isinstance(i, dict) for i in value)):
            raise ValueError("must be auto, or a list of pairs such as `{input: state, output: stateN}`")
        return value

    @field_validator("batch_axis", mode="before")
    @classmethod
    def _take_any_tensor(cls, value: object) -> object:
        if value is not None and not isinstance(value, dict):
            raise ValueError("must map inputs and outputs to an axis, such as `state: 1`")
        return value and {str(name): axis for name, axis in value.items()}

    @field_validator("shared", mode="before")
    @classmethod
    def _take_any_inputs(cls, value: object) -> object:
        if value is not None and not isinstance(value, list):
            raise ValueError("must be a list of inputs, such as `[scale]`")
        return value and [str(name) for name in value]

    @field_validator("labels", mode="before")
    @classmethod
    def _take_any_names(cls, value: object) -> object:
        if not isinstance(value, dict) or not all(isinstance(names, list) for names in value.values()):
            raise ValueError("must map outputs to a list of class names, such as `probabilities: [cat, dog]`")
        return {str(output): [str(name) for name in names] for output, names in value.items()}

    @field_validator("session_config", mode="before")
    @classmethod
    def _take_any_values(cls, value: object) -> object:
        """YAML reads 1 as a number and true as a boolean; ONNX Runtime expects "1" for both."""
        if not isinstance(value, dict):
            return value
        return {name: str(int(entry) if isinstance(entry, bool) else entry) for name, entry in value.items()}


def read_config(path: Path, batching_defaults: dict[str, object]) -> ModelConfig:
    """Read a model.yaml; a file that does not exist counts as an empty one.

    Args:
        path: the file.
        batching_defaults: the server's settings for batching, which the file overrides.

    Raises:
        ConfigurationError: not a YAML mapping, or an unknown key or a bad value; the message names the key.
    """
    config = read_mapping(path) if path.exists() or path.is_symlink() else {}
    batching = config.get("batching", {})
    if isinstance(batching, dict):
        config = {**config, "batching": {**batching_defaults, **batching}}
    try:
        return ModelConfig.model_validate(config)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Return the errors of a validation on one line: each key and what is wrong with it."""
    faults = ((_key(one["loc"]), _explain_one(one["type"], one["msg"])) for one in error.errors() if _is_meant(one))
    return "; ".join(f"{key}: {fault}" if key else fault for key, fault in faults)


def _is_meant(error: ErrorDetails) -> bool:
    """Whether an error is of what the file has: a list that may also be a word fails as a word, too."""
    return error["type"] != "literal_error" or not any(map(_is_kind, error["loc"]))


def _key(place: tuple[int | str, ...]) -> str:
    """Return a place as `state[0].output`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place if not _is_kind(part))
    return "".join(parts).removeprefix(".")


def _is_kind(part: int | str) -> bool:
    """Whether a part of a place is pydantic's name of a member of a union, such as list[StateConfig]."""
    return isinstance(part, str) and part.startswith(("literal[", "list["))


def _explain_one(kind: str, message: str) -> str:
    match kind:
        case "extra_forbidden":
            return "unknown setting"
        case "value_error":  # our own validators'
            return message.removeprefix("Value error, ")
        case "model_type":
            return "must be a mapping of settings"
    return message[0].lower() + message[1:]
