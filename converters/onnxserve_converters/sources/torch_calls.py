"""Turns inputs into the arguments of a PyTorch model."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.utils import _pytree as pytree

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Call(Protocol):
    """A way to call a model.

    Attributes:
        inputs: in the order in which the model takes them.
    """

    inputs: tuple[InputSpec, ...]

    def arguments(self, tensors: Mapping[str, torch.Tensor]) -> Arguments:
        """Return the arguments for these inputs."""
        ...


class ModuleCall:
    """A call of forward(): by keyword where every input is named like a parameter, else in the order described.

    Args:
        signature: of forward().
        described: the caller's inputs.

    Raises:
        BadRequest: none are described, or forward() does not accept them.
    """

    def __init__(self, signature: inspect.Signature, described: tuple[InputSpec, ...]) -> None:
        if not described:
            required = [parameter.name for parameter in _parameters(signature) if parameter.default is parameter.empty]
            example = " ".join(f"--input {name}=float32[batch,10]" for name in required or ["x"])
            raise BadRequest(
                f"describe the inputs of {_shown(signature)}, with their dtypes and shapes, such as {example}"
            )
        self._signature = signature
        self._names = [spec.name for spec in described]
        self._by_keyword = set(self._names) <= {parameter.name for parameter in _parameters(signature)}
        try:
            bound = self._bind({spec.name: spec for spec in described})
        except TypeError as error:
            raise BadRequest(
                f"--input: {_shown(signature)} cannot be called with {', '.join(self._names)}: {error}"
            ) from error
        self.inputs = (*bound.args, *bound.kwargs.values())

    def arguments(self, tensors: Mapping[str, torch.Tensor]) -> Arguments:
        """Return the arguments, by position where possible."""
        bound = self._bind(tensors)
        return bound.args, bound.kwargs

    def _bind(self, values: Mapping[str, Any]) -> inspect.BoundArguments:
        if self._by_keyword:
            return self._signature.bind(**values)
        return self._signature.bind(*(values[name] for name in self._names))


class ProgramCall:
    """A call of an exported program, in the structure that it was exported with.

    Args:
        program: declares its inputs.
        described: the caller's descriptions: of some inputs by their own names, or of all in their order.

    Attributes:
        frees_more: whether the caller frees an axis that is fixed in the program.

    Raises:
        BadRequest: an input of the program is not a tensor, or the descriptions do not fit.
    """

    def __init__(self, program: ExportedProgram, described: tuple[InputSpec, ...]) -> None:
        own = _own_inputs(program)
        self._program = program
        self.inputs = _as_described(own, described)
        self.frees_more = any(
            isinstance(fixed, int) and isinstance(axis, str)
            for theirs, spec in zip(own, self.inputs, strict=True)
            for fixed, axis in zip(theirs.shape, spec.shape, strict=True)
        )

    def arguments(self, tensors: Mapping[str, torch.Tensor]) -> Arguments:
        """Return the arguments, with the constants that the program was exported with."""
        given = iter([tensors[spec.name] for spec in self.inputs])
        leaves = [
            argument.value if isinstance(argument, ConstantArgument) else next(given)
            for argument in _user_arguments(self._program)
        ]
        structure = self._program.call_spec.in_spec
        assert structure is not None
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        return tuple(args), kwargs


def script_signature(script: torch.jit.ScriptModule) -> inspect.Signature:
    """Return the signature of a script's forward(), which inspect.signature() cannot read."""
    _, *arguments = script.forward.schema.arguments  # type: ignore[attr-defined]  # typed as any callable
    return inspect.Signature([
        inspect.Parameter(
            argument.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
        )
        for argument in arguments
    ])  # fmt: skip


def _parameters(signature: inspect.Signature) -> list[inspect.Parameter]:
    """Return the parameters without *args and **kwargs."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter for parameter in signature.parameters.values() if parameter.kind not in variable]


def _shown(signature: inspect.Signature) -> str:
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return f"forward{inspect.Signature(bare)}"


def _user_arguments(program: ExportedProgram) -> list[Any]:
    return [spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]


def _own_inputs(program: ExportedProgram) -> tuple[InputSpec, ...]:
    """Return a program's inputs. Free axes are renamed from its symbols; equal symbols get the same name."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    names: dict[str, str] = {}
    inputs: list[InputSpec] = []
    for argument in _user_arguments(program):
        if isinstance(argument, ConstantArgument):
            continue
        if not isinstance(argument, TensorArgument):
            raise BadRequest(
                f"input {argument.name}: the program takes a number; export it again with a tensor of shape ()"
            )
        tensor = values[argument.name]
        shape = [
            size
            if isinstance(size, int)
            else names.setdefault(str(size), f"{argument.name}_{axis}" if inputs or axis else "batch")
            for axis, size in enumerate(tensor.shape)
        ]
        inputs.append(InputSpec(argument.name, str(tensor.dtype).removeprefix("torch."), tuple(shape)))
    return tuple(inputs)


def _as_described(own: Sequence[InputSpec], described: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return a program's inputs as described: some by their own names, or all in their order."""
    given = {spec.name: spec for spec in described}
    if not given.keys() <= {spec.name for spec in own}:
        if len(described) != len(own):
            takes = ", ".join(map(str, own)) or "none"
            raise BadRequest(
                f"--input: {len(described)} inputs are described, but the program takes {len(own)}: {takes}"
            )
        given = {theirs.name: spec for theirs, spec in zip(own, described, strict=True)}
    axes: dict[int | str, int | str] = {}
    for theirs in own:
        spec = given.get(theirs.name, theirs)
        if spec.dtype != theirs.dtype or len(spec.shape) != len(theirs.shape) or _contradict(theirs.shape, spec.shape):
            raise BadRequest(f"--input {spec.name}: does not fit the program, which takes {theirs}")
        if spec is not theirs:
            axes |= {axis: now for axis, now in zip(theirs.shape, spec.shape, strict=True) if isinstance(axis, str)}
    renamed = (replace(theirs, shape=tuple(axes.get(axis, axis) for axis in theirs.shape)) for theirs in own)
    return tuple(given.get(theirs.name, theirs) for theirs in renamed)


def _contradict(own: Sequence[int | str], described: Sequence[int | str]) -> bool:
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(own, described, strict=True))
