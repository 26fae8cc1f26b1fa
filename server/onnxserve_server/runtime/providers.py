"""Execution providers: their names in a configuration, and the default."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_SHORT = {"cpu": CPU, "cuda": CUDA, "tensorrt": "TensorrtExecutionProvider"}

# Batches differ in size: grow the arena by what a run needs, do not search the fastest convolution for each size.
_DEFAULTS = {CUDA: {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}}


def parse_providers(value: object) -> dict[str, dict[str, str]]:
    """Return providers by full name with their options, preferred first, the CPU last.

    Accepts "cuda", ["cuda", "cpu"] and {"cuda": {"gpu_mem_limit": 2147483648}}; "auto" is CUDA where this onnxruntime
    has it and the machine shows an NVIDIA device, else the CPU. The CPU is always last, for nodes that the others lack.

    Raises:
        ValueError: something else, or a name that is not an execution provider.
    """
    if value == "auto":
        value = ["cuda"] if CUDA in onnxruntime.get_available_providers() and Path("/dev/nvidiactl").exists() else []
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, (list, tuple)):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("each of a list must be a name; to give options write a mapping: {cuda: {device_id: 1}}")
        value = {name: {} for name in value}
    if not isinstance(value, Mapping):
        raise ValueError("expected a name, a list of names, or a mapping of names to options")
    providers = {}
    for name, options in value.items():
        full = _SHORT.get(str(name).lower(), str(name))
        if full not in onnxruntime.get_all_providers():
            raise ValueError(
                f"unknown execution provider {name!r}; use {', '.join(_SHORT)}, or ONNX Runtime's full name of one"
            )
        if not isinstance(options or {}, Mapping):
            raise ValueError(f"the options of {name} must be a mapping of names to values")
        providers[full] = _DEFAULTS.get(full, {}) | {str(key): str(option) for key, option in (options or {}).items()}
    providers[CPU] = providers.pop(CPU, {})
    return providers
