"""What ONNX Runtime says, on one line, with the cure where one is known."""

from pathlib import Path

_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_INT4 = ("tensor(int4)", "tensor(uint4)")

# What a message of ONNX Runtime contains, and what to do then.
_CURES = (
    (
        "Failed to construct locale",
        "its StringNormalizer needs that locale: install it (Debian, Ubuntu: locales-all), or convert the model again, "
        "with `onnxserve convert`, which uses C.UTF-8, or without lower-casing (scikit-learn: lowercase=False)",
    ),
    (
        "Unsupported model IR version",
        "install a newer onnxruntime, or convert the model again for this one (torch.onnx.export and skl2onnx take an "
        "opset, onnx.helper.make_model an ir_version)",
    ),
    (
        "support for models stamped with official released onnx opset versions",
        "install a newer onnxruntime, or export the model again with an older opset, or try onnx.version_converter",
    ),
    (
        "is not a registered function/op",
        "it uses custom operators: list the library that has them under custom_operators in model.yaml, or export the "
        "model without them",
    ),
    (
        "No Op registered for",
        "this onnxruntime does not have that operator: install a newer one, export the model again with an older "
        "opset, or, if it is a custom operator, list its library under custom_operators in model.yaml",
    ),
    (
        "NOT_IMPLEMENTED",
        "export the model again with other types, or set another execution provider",
    ),
)


def cure_of_failure(path: Path, message: str) -> str:
    """Return what to do about a model that cannot be loaded, after a semicolon; "" if that is not known."""
    if "Protobuf parsing failed" in message and _is_pointer(path):
        return "; it is a Git LFS pointer and not the model: run `git lfs pull` where the repository is cloned"
    return next((f"; {cure}" for part, cure in _CURES if part in message), "")


def cure_of_type(kind: str) -> str:
    """Return what to do about an input or output of a type that cannot be served, after a semicolon.

    Args:
        kind: ONNX Runtime's name of the type.
    """
    if kind in _INT4:
        return ", which ONNX Runtime cannot pass through Python; add a Cast, to int8 or from it, to the graph"
    if "map(" in kind:
        return ", not a tensor; skl2onnx adds the ZipMap that makes it unless it gets options={'zipmap': False}"
    if kind.startswith(("seq(", "optional(", "sparse_tensor(")):
        return ", not a tensor; export the model such that it takes and gives tensors"
    return ", a type that the server does not have; add a Cast to one that it has to the graph"


def one_line(error: Exception) -> str:
    """Return what ONNX Runtime says of a failure, on one line; what is not UTF-8 in it with a replacement."""
    text = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
    return " ".join(text.split())


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GIT_LFS)) == _GIT_LFS
