"""Which inputs of a model are outputs of its previous step: from model.yaml or the file's metadata, and checked."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from onnxserve.tensor import NAMES, STORAGE, STRING, Array
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import ModelConfig, SequencesConfig, StateConfig
from onnxserve_server.repository.discovery import Found
from onnxserve_server.repository.files import check_regular, check_within
from onnxserve_server.runtime.metadata import json_in
from onnxserve_server.runtime.session import Session
from onnxserve_server.spec import Feedback, SequencePolicy, StatePair, TensorSpec

# How exported models name a state and its next value, for `state: auto`: patterns of the input, and of the output.
_NAMES = (
    (r"([hc]|h_|c_)0", r"\1n"),
    (r"(.+)_0", r"\1_n"),
    (r"(.+)", r"\1N"),
    (r"(.+)", r"\1_out"),
    (r"(.+)", r"\1_next"),
    (r"(.+)", r"next_\1"),
    (r"(.+)", r"new_\1"),
    (r"(.+)_in", r"\1_out"),
    (r"past_key_values(.*)", r"present\1"),
    (r"past(.*)", r"present\1"),
)


def state_of(found: Found, session: Session) -> tuple[StatePair, ...]:
    """Return the model's state pairs; () for a model without state.

    Raises:
        ConfigurationError: a name is unknown, or an output does not fit its input.
    """
    config, place = found.config.state, f"{found.config_file}: state"
    if config is None:
        config, place = _state_in(session), f"{found.path}: metadata state"
    if config is None:
        return ()
    if config == "auto":
        return _recognise(session, place)
    pairs = []
    for i, pair in enumerate(config):
        input_ = _named(pair.input, session.inputs, f"{place}[{i}].input", "input")
        output = _named(pair.output, session.outputs, f"{place}[{i}].output", "output")
        if problem := _mismatch(input_, output):
            raise ConfigurationError(f"{place}[{i}]: {problem}")
        initial = _initial(pair.initial, input_, found.config_file.parent, f"{place}[{i}].initial")
        pairs.append(StatePair(input=input_, output=output, initial=initial))
    for kind in ("input", "output"):
        names = [getattr(pair, kind).name for pair in pairs]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"{place}: an {kind} is listed twice")
    return tuple(pairs)


def feedback_of(found: Found, session: Session) -> tuple[Feedback, ...]:
    """Return the outputs that are inputs of the next step; () for most models.

    Raises:
        ConfigurationError: a name is unknown, or an output does not fit its input.
    """
    config, place = found.config.feedback, f"{found.config_file}: feedback"
    if config is None:
        config, place = _feedback_in(session), f"{found.path}: metadata feedback"
    pairs = []
    for output_name, input_name in (config or {}).items():
        output = _named(output_name, session.outputs, f"{place}.{output_name}", "output")
        input_ = _named(input_name, session.inputs, f"{place}.{output_name}", "input")
        if problem := _mismatch(input_, output):
            raise ConfigurationError(f"{place}.{output_name}: {problem}")
        pairs.append(Feedback(output, input_))
    return tuple(pairs)


def policy_of(config: SequencesConfig) -> SequencePolicy:
    """Return how much state the server keeps."""
    return SequencePolicy(max_live=config.max, idle=config.idle_ms / 1e3)


def _state_in(session: Session) -> Literal["auto"] | list[StateConfig] | None:
    """Return "state" of the metadata, if it is as in model.yaml and names inputs and outputs of the model."""
    config = _config_in(session, "state")
    if config is None or config.state is None or config.state == "auto":
        return None if config is None else config.state
    known = all(_knows(session, input_=pair.input, output=pair.output) for pair in config.state)
    return config.state if known else None


def _feedback_in(session: Session) -> dict[str, str] | None:
    """Return "feedback" of the metadata, if it is as in model.yaml and names inputs and outputs of the model."""
    config = _config_in(session, "feedback")
    if config is None or config.feedback is None:
        return None
    known = all(_knows(session, input_=input_, output=output) for output, input_ in config.feedback.items())
    return config.feedback if known else None


def _config_in(session: Session, key: str) -> ModelConfig | None:
    """Return a configuration of one key, whose value is in the file's metadata; None if it is another tool's."""
    try:
        return ModelConfig.model_validate({key: json_in(session.metadata, key)})
    except ValidationError:
        return None


def _knows(session: Session, *, input_: str, output: str) -> bool:
    return any(spec.name == input_ for spec in session.inputs) and any(spec.name == output for spec in session.outputs)


def _recognise(session: Session, place: str) -> tuple[StatePair, ...]:
    outputs = {output.name: output for output in session.outputs}
    pairs = []
    for input_ in session.inputs:
        for pattern, name in _NAMES:
            match = re.fullmatch(pattern, input_.name)
            output = outputs.get(match.expand(name)) if match else None
            if output is not None and not _mismatch(input_, output):
                pairs.append(StatePair(input=input_, output=output))
                break
    if not pairs:
        names = ", ".join(spec.name for spec in session.inputs + session.outputs)
        raise ConfigurationError(
            f"{place}: no input and output of {names} look like a state and its next value; list the pairs"
        )
    return tuple(pairs)


def _named(name: str, specs: tuple[TensorSpec, ...], place: str, kind: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    names = ", ".join(spec.name for spec in specs)
    raise ConfigurationError(f"{place}: unknown {kind} {name!r}; the model's {kind}s are {names}")


def _mismatch(input_: TensorSpec, output: TensorSpec) -> str:
    """Return why an output cannot be the next step's input; "" if it can."""
    if input_.data_type == STRING or input_.data_type != output.data_type:
        types = f"{NAMES[output.data_type]} and {NAMES[input_.data_type]}"
        return f"output {output.name} and input {input_.name} are {types}; both must have one type, other than string"
    for spec in (input_, output):
        if spec.any_shape:
            return f"the model declares no shape for {spec.name}; export it with one"
    fits = len(input_.shape) == len(output.shape) and all(
        isinstance(size, str) or isinstance(other, str) or size == other
        for size, other in zip(input_.shape, output.shape, strict=True)
    )
    if not fits or input_.batch_axis != output.batch_axis:
        return f"output {output.name} {list(output.shape)} does not fit input {input_.name} {list(input_.shape)}"
    return ""


def _initial(value: float | str, spec: TensorSpec, directory: Path, place: str) -> float | Array:
    if not isinstance(value, str):
        return value
    path = directory / value
    try:
        check_within(path, directory)
        check_regular(path)
        array: Array = np.lib.format.open_memmap(path, mode="r")  # takes no memory, whatever size the file claims
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from error
    except Exception as error:  # a header is Python source, with all errors that Python's parser has
        raise ConfigurationError(f"{place}: {path}: not a valid .npy file: {error}") from error
    row = spec.row_of(spec.shape)
    fits = array.ndim == len(row) and all(
        isinstance(size, str) or size == other for size, other in zip(row, array.shape, strict=True)
    )
    if array.dtype != STORAGE[spec.data_type] or not fits:
        raise ConfigurationError(
            f"{place}: {value} is {array.dtype}{list(array.shape)}, but a row of {spec.name} is "
            f"{NAMES[spec.data_type]}{list(row)}"
        )
    return np.array(array)
