"""Messages whose fields take a few bytes each, and many times as many once they are parsed."""


def delimited(number, content):
    """A length-delimited field of a protobuf, by its number: at most 15."""
    size, length = len(content), b""
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return bytes((number << 3 | 2,)) + length + bytes((size,)) + content


REQUESTS = {
    "inputs": (lambda number: b"\x1a\x00" * number, "inputs"),
    "outputs": (lambda number: b"\x22\x00" * number, "outputs"),
    "outputs, their key in a longer form": (lambda number: b"\xa2\x80\x00\x00" * (number // 2), "outputs"),
    "strings": (lambda number: delimited(3, b"\x2a\x00" * number), "inputs[0].strings"),
    "strings of inputs": (lambda number: 20 * delimited(3, b"\x2a\x02ab" * (number // 40 + 1)), "inputs[19].strings"),
    "packed sizes": (lambda number: delimited(3, delimited(3, b"\x01" * (2 * number))), "inputs[0].shape"),
    "sizes one by one": (lambda number: delimited(3, b"\x18\x01" * number), "inputs[0].shape"),
    "unknown fields": (lambda number: b"\xf8\x07\x00" * (2 * number // 3), "field 127"),
}
"""PredictRequests by what they have many of: what makes one of a number of fields, and the path of those."""

STREAM_REQUESTS = {
    "inputs": (lambda number: delimited(1, b"\x1a\x00" * number), "predict.inputs"),
    "inputs in parts": (lambda number: delimited(1, b"\x1a\x00" * 4096) * (number // 4096), "predict.inputs"),
    "state": (
        lambda number: delimited(3, delimited(4, delimited(3, b"\x2a\x00" * number))),
        "sequence.state.tensors[0].strings",
    ),
    "kinds by turns": (lambda number: b"\x0a\x00\x12\x00" * (number // 2), "predict"),
}
"""The same of StreamRequests."""
