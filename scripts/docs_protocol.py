"""The messages and services of protos/ as Markdown, with the comments that stand in them."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from protos import protoc

Table = Callable[[Iterable[str], Iterable[Iterable[str]]], str]
Comments = dict[tuple[int, ...], str]

# Numbers of fields in descriptor.proto, of which the path of a comment is made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_PARTS = 2  # a message's fields, an enum's values, a service's methods


def contract(table: Table) -> str:
    """Return a section for each service, message and enum of our contract."""
    return "\n\n".join(part for file in _files() for part in _sections(file, table))


def _files() -> Iterator[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image")
        protoc("--include_source_info", f"--descriptor_set_out={image}")
        files = FileDescriptorSet.FromString(image.read_bytes()).file
    yield from sorted(files, key=lambda file: file.name)


def _sections(file: FileDescriptorProto, table: Table) -> Iterator[str]:
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    for i, service in enumerate(file.service):
        yield _section(service.name, comments.get((_SERVICES, i), ""))
        for j, method in enumerate(service.method):
            yield _section(f"{service.name}.{method.name}", comments.get((_SERVICES, i, _PARTS, j), ""), level="####")
            yield f"`{_stream(method.client_streaming)}{_short(method.input_type)}` → " + (
                f"`{_stream(method.server_streaming)}{_short(method.output_type)}`"
            )
    for i, message in enumerate(file.message_type):
        if message.options.map_entry:
            continue
        yield _section(message.name, comments.get((_MESSAGES, i), ""))
        if message.field:
            yield table(("number", "field", "type", "meaning"), _fields(message, comments, i))
    for i, enum in enumerate(file.enum_type):
        yield _section(enum.name, comments.get((_ENUMS, i), ""))
        yield table(
            ("number", "value", "meaning"),
            (
                (str(value.number), f"`{value.name}`", _line(comments.get((_ENUMS, i, _PARTS, j), "")))
                for j, value in enumerate(enum.value)
            ),
        )


def _section(name: str, comment: str, level: str = "###") -> str:
    paragraphs = "\n".join(line.strip() for line in comment.splitlines())
    return f"{level} {name}\n\n{paragraphs}".rstrip()


def _fields(message: Any, comments: Comments, place: int) -> Iterator[tuple[str, ...]]:
    for j, field in enumerate(message.field):
        meaning = _line(comments.get((_MESSAGES, place, _PARTS, j), ""))
        choice = f"One of `{message.oneof_decl[field.oneof_index].name}`. " if _is_choice(field) else ""
        yield str(field.number), f"`{field.name}`", f"`{_type(message, field)}`", choice + meaning


def _is_choice(field: FieldDescriptorProto) -> bool:
    return field.HasField("oneof_index") and not field.proto3_optional


def _type(message: Any, field: FieldDescriptorProto) -> str:
    for entry in message.nested_type:
        if entry.options.map_entry and field.type_name.endswith(f".{entry.name}"):
            return f"map<{_name(entry.field[0])}, {_name(entry.field[1])}>"
    many = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    return f"{'optional ' if field.proto3_optional else many}{_name(field)}"


def _name(field: FieldDescriptorProto) -> str:
    return _short(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _short(name: str) -> str:
    return name.removeprefix(".onnxserve.v1.").removeprefix(".")


def _stream(streaming: bool) -> str:
    return "stream " if streaming else ""


def _line(comment: str) -> str:
    return " ".join(comment.split())
