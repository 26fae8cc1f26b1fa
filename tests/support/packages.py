"""What the packages for programmers make public."""

import importlib
import pkgutil

import onnxserve
import onnxserve_converters


def public_modules():
    """The names of the modules that say by __all__ what is public in them."""
    names = [onnxserve.__name__, onnxserve_converters.__name__]
    for package in (onnxserve, onnxserve_converters):
        names += [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    public = [name for name in names if not name.rpartition(".")[2].startswith("_")]
    return [name for name in public if hasattr(importlib.import_module(name), "__all__")]


def public_names(module):
    """The names that a module says are public, without its version, and without those that the package has as well."""
    elsewhere = set() if module == onnxserve.__name__ else set(onnxserve.__all__)
    return sorted(set(importlib.import_module(module).__all__) - elsewhere - {"__version__"})
