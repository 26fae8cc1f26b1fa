"""Looks for requests that end the process that runs them: one operator at a time, each in a process of its own.

    python -m support.kernels FIRST STEP        tries every STEP-th case from number FIRST on; a line of JSON for each
    python -m support.kernels fatal             tries what support.kernel_cases knows to be fatal

The cases are the test cases of the package onnx, some for each operator of the standard, and ours. All their axes are
free. Sizes go to 0, one by one and together; values to the limits of their types.
"""

import itertools
import json
import os
import random
import resource
import select
import sys
import warnings
from dataclasses import asdict, dataclass, field

import numpy as np
import onnx
import onnxruntime

MAX_OPSET = 25  # that this ONNX Runtime has kernels for
HANG = 5.0  # seconds of one trial
MEMORY = 6 << 30  # bytes of address space
MAX_DEATHS = 12


@dataclass
class Case:
    """One operator in a model, and inputs that it runs on."""

    name: str
    model: onnx.ModelProto
    feeds: dict

    @property
    def operator(self):
        node = self.model.graph.node[-1]
        return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


@dataclass
class Outcome:
    """What became of a case: `refused` is why it does not load or run, `deaths` is [(trial, how), ...]."""

    trials: int = 0
    refused: str = ""
    deaths: list = field(default_factory=list)


def standard_cases():
    """Yield the test cases of the package onnx whose inputs are all tensors."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        if case.model is None or not case.data_sets or case.name.endswith("_expanded"):
            continue
        arrays, names = case.data_sets[0][0], [each.name for each in case.model.graph.input]
        if len(arrays) == len(names) and all(isinstance(array, np.ndarray | np.generic) for array in arrays):
            yield Case(case.name, freed(case.model), dict(zip(names, map(np.asarray, arrays), strict=True)))


def freed(model):
    """Return a model with every axis of its inputs free, and outputs of any shape."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = min(made.ir_version, 11)
    for opset in made.opset_import:
        if not opset.domain:
            opset.version = min(opset.version, MAX_OPSET)
    for each in made.graph.input:
        for axis in each.type.tensor_type.shape.dim:
            axis.Clear()
    for each in made.graph.output:
        each.type.tensor_type.ClearField("shape")
    return made


def trials(feeds, seed=0):
    """Yield (what, feeds): the sizes and values to try a case with."""
    yield from _sizes(feeds, random.Random(seed))
    yield from _values(feeds)


def _sizes(feeds, rng):
    places = [(name, axis) for name, array in feeds.items() for axis in range(array.ndim)]
    alike = {}
    for name, axis in places:
        alike.setdefault(feeds[name].shape[axis], []).append((name, axis))
    pairs = list(itertools.combinations(places, 2))
    subsets = [[place] for place in places] + [group for group in alike.values() if len(group) > 1]
    subsets += rng.sample(pairs, min(40, len(pairs)))
    subsets += [rng.sample(places, k) for k in (3, 4, 5) if len(places) >= k for _ in range(12)] + [places]
    for subset in subsets:
        changed = dict(feeds)
        for name, axis in subset:
            changed[name] = np.take(changed[name], np.arange(0), axis=axis)
        yield " + ".join(f"{name}.{axis}" for name, axis in subset) + " = 0", changed


def _values(feeds):
    limits = {name: _limits(array.dtype) for name, array in feeds.items() if array.size}
    for name, values in limits.items():
        for value in values:
            for where in (..., (0,) * feeds[name].ndim):
                changed = feeds[name].copy()
                changed[where] = value
                yield f"{name} = {str(value)[:20]!r}", feeds | {name: changed}
    signed = [name for name in limits if feeds[name].dtype.kind == "i"]
    for x, y in itertools.permutations(signed, 2):
        smallest = np.iinfo(feeds[x].dtype).min
        both = {x: np.full_like(feeds[x], smallest), y: np.full_like(feeds[y], -1)}
        yield f"{x} = {smallest}, {y} = -1", feeds | both


def _limits(dtype):
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = (info.min, info.min + 1, -1, 0, 1, 2**31, 2**40, info.max)
        return [value for value in values if info.min <= value <= info.max]
    if dtype.kind == "f":
        return [np.nan, np.inf, -np.inf, -1, 0, np.finfo(dtype).max]
    if dtype.kind in "OUS":
        return ["", "\0", "x" * 100_000, "\u20ac"]
    return [True, False] if dtype.kind == "b" else []


def attempt(tried, only=None):
    """Run a case with all trials, or those whose names are in `only`, in processes of their own; return an Outcome."""
    outcome, start = Outcome(), 0
    while len(outcome.deaths) < MAX_DEATHS:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            try:
                _run(tried, only, start, os.fdopen(writer, "w"))
            finally:
                os._exit(0)
        os.close(writer)
        lines, how = _listen(reader, pid)
        messages = [json.loads(line) for line in lines]
        last = messages[-1] if messages else {}
        if "trial" not in last:
            outcome.refused = last.get("refused", "" if how == "exit status 0" else how)
            outcome.trials = last.get("trials", 0)
            return outcome
        outcome.deaths.append((last["trial"], how))
        start = last["number"] + 1
    return outcome


def _listen(reader, pid):
    """Read lines until the child ends, or says nothing for too long; return them and how it ended."""
    said, hung = b"", False
    while not hung:
        if not select.select([reader], [], [], HANG)[0]:
            os.kill(pid, 9)
            hung = True
        elif piece := os.read(reader, 1 << 16):
            said += piece
        else:
            break
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    how = "does not return" if hung else f"signal {-status}" if status < 0 else f"exit status {status}"
    return said.decode().splitlines(), how


def _run(tried, only, start, messages):
    def say(**fields):
        messages.write(json.dumps(fields) + "\n")
        messages.flush()

    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(tried.model.SerializeToString(), options)
    except Exception as error:
        say(refused=str(error))
        return
    number = 0
    for number, (what, feeds) in enumerate(trials(tried.feeds)):
        if number >= start and (only is None or what in only):
            say(number=number, trial=what)
            try:
                session.run(None, feeds)
            except Exception as error:
                del error  # refused: that is well
    say(trials=number + 1)


def main():
    from support.kernel_cases import FATAL, cases

    if sys.argv[1] == "fatal":
        tried = cases()
    else:
        first, step = map(int, sys.argv[1:])
        tried = itertools.islice(itertools.chain(cases(), standard_cases()), first, None, step)
    for each in tried:
        only = FATAL[each.name] if sys.argv[1] == "fatal" else None
        outcome = {"case": each.name, "operator": each.operator} | asdict(attempt(each, only))
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
