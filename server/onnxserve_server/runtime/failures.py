"""Why a run failed: by the values and sizes of its inputs, for want of memory, or otherwise."""

import re

from onnxserve_server.runtime.messages import one_line

_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : (\w+) : (.*)", re.DOTALL)
_NODE = re.compile(r"running (\S+) node\. Name:'([^']*)' Status Message: ")
# Kernels put before their sentence where in the source it stands, and what they had checked.
_SOURCE = re.compile(r"^\S+\.(?:cc|h):\d+ (?:\S.*?\((?:[^()]|\([^()]*\))*\) (?:const )?(?:\[with [^\]]*\] )?)?(?!$)")
_CHECK = re.compile(r"^.{0,200}? was false\. ")
# What a kernel says of values is one of these; the other codes are of devices, providers and missing kernels.
_OF_KERNELS = {"FAIL", "INVALID_ARGUMENT", "RUNTIME_EXCEPTION"}
_OF_MEMORY = (
    "Failed to allocate memory",
    "Available memory of",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "OUT_OF_MEMORY",
)
_LEFT = re.compile(r"Available memory of (\d+) is smaller than requested bytes of (\d+)")
_OF_DEVICES = ("CUDA", "CUBLAS", "CUDNN", "cuda", "TensorRT", "terminate flag")


class RunFailed(Exception):
    """ONNX Runtime refused or aborted a run; the text is its own."""


class ValuesRefused(RunFailed):
    """A kernel cannot compute with the values or the sizes of the inputs; the text names it and has its sentence."""


class MemoryRefused(RunFailed):
    """The run needs more memory than there is; the text says how much, or is ONNX Runtime's own.

    Attributes:
        asked: the bytes that it asked for at once, where that is known.
    """

    def __init__(self, text: str, asked: int | None = None) -> None:
        super().__init__(text)
        self.asked = asked


def failure_of(error: Exception, *, has_run: bool) -> RunFailed:
    """Return what an error of ONNX Runtime means.

    Args:
        error: as it came out of a run.
        has_run: whether the model has run on other inputs. What a kernel complains of is the fault of the inputs then;
            until then only where ONNX Runtime itself calls it an invalid argument.
    """
    text = one_line(error)
    status = _STATUS.match(text)
    said = _NODE.split(text)[-1]  # the names of nodes may be anything
    if any(mark in said for mark in _OF_MEMORY):
        if (left := _LEFT.search(said)) is None:
            return MemoryRefused(text)
        return MemoryRefused(
            f"it asks for {left[2]} bytes more, and {left[1]} are left of --all-run-bytes", asked=int(left[2])
        )
    if status is None or status[1] not in _OF_KERNELS or any(mark in said for mark in _OF_DEVICES):
        return RunFailed(text)
    if status[1] == "INVALID_ARGUMENT" or (has_run and _NODE.search(status[2])):
        return ValuesRefused(_sentence(status[2]))
    return RunFailed(text)


def _sentence(text: str) -> str:
    """Return what the innermost kernel says, after its type and its name in the graph."""
    nodes = list(_NODE.finditer(text))
    if not nodes:
        return text
    node, said = nodes[-1], text[nodes[-1].end() :]
    said = _CHECK.sub("", _SOURCE.sub("", said))
    return f"{node[1]} {node[2]!r}: {said}" if node[2] else f"{node[1]}: {said}"
