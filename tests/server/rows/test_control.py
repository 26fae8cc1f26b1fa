"""Graphs inside nodes, and sequences: followed where rows keep apart, found where they meet, against brute force."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxserve_server.rows.analysis import analyse
from onnxserve_server.spec import Rows
from support.brute_force import specs, witness

CONSTANTS = {
    "zero": np.int64(0), "one": np.int64(1), "three": np.int64(3), "yes": np.bool_(True), "first": np.array([0]),
    "second": np.array([1]), "half": np.float32(0.5), "start": np.zeros((2, 4), np.float32),
}  # fmt: skip

INDEPENDENT = {
    "an if by a size of a row": """g (float[batch, t] x) => (float[batch, t] y) {
        s = Shape <start = 1, end = 2> (x)  n = Squeeze (s)  many = Greater (n, three)
        y = If (many) <then_branch = a () => (float[b, t] p) { p = Relu (x) },
                       else_branch = c () => (float[b, t] q) { q = Neg (x) }> }""",
    "an if that is decided": """g (float[batch, t] x) => (float[batch, t] y) {
        y = If (yes) <then_branch = a () => (float[b, t] p) { p = Relu (x) },
                      else_branch = c () => (float[b, t] q) { q = Softmax <axis = 0> (x) }> }""",
    "a loop over a state with rows": """g (float[batch, 4] x) => (float[batch, 4] y) {
        y = Loop (three, yes, x) <body = b (int64 i, bool go, float[b, 4] s) => (bool on, float[b, 4] next) {
            on = Identity (go)  h = Tanh (s)  next = Add (h, x) }> }""",
    "a loop that collects": """g (float[batch, 4] x) => (float[three, batch, 4] out, float[batch, 4] y) {
        y, out = Loop (three, yes, x) <body = b (int64 i, bool go, float[b, 4] s)
            => (bool on, float[b, 4] next, float[b, 4] seen) {
            on = Identity (go)  next = Tanh (s)  seen = Neg (s) }> }""",
    "a scan along time": """g (float[batch, t, 2] x) => (float[batch, 2] y) {
        z = ReduceSum <keepdims = 0> (x, second)  n = Sub (z, z)
        y = Scan <num_scan_inputs = 1, scan_input_axes = [1], body = b (float[b, 2] s, float[b, 2] e)
            => (float[b, 2] next) { h = Tanh (s)  next = Add (h, e) }> (n, x) }""",
    "a sequence of pieces": """g (float[batch, 4] x) => (float[batch, 2] y) {
        parts = SplitToSequence <axis = 1> (x, pair)  y = SequenceAt (parts, one) }""",
    "a sequence put together": """g (float[batch, 4] x) => (float[batch, 8] y) {
        n = Neg (x)  s = SequenceConstruct (x, n)  y = ConcatFromSequence <axis = 1> (s) }""",
    "a sequence that grows": """g (float[batch, 4] x) => (float[batch, 8] y) {
        e = SequenceEmpty ()  s = SequenceInsert (e, x)  t = SequenceInsert (s, x)
        y = ConcatFromSequence <axis = 1> (t) }""",
}
MEETING = {
    "an if by a row": """g (float[batch, 4] x) => (float[batch, 4] y) {
        m = ReduceMax <keepdims = 0> (x)  large = Greater (m, half)
        y = If (large) <then_branch = a () => (float[b, t] p) { p = Relu (x) },
                        else_branch = c () => (float[b, t] q) { q = Neg (x) }> }""",
    "an if by the number of rows": """g (float[batch, 4] x) => (float[batch, 4] y) {
        s = Shape <end = 1> (x)  n = Squeeze (s)  many = Greater (n, one)
        y = If (many) <then_branch = a () => (float[b, t] p) { p = Relu (x) },
                       else_branch = c () => (float[b, t] q) { q = Neg (x) }> }""",
    "a loop for each row": """g (float[batch, 4] x) => (float[batch, 4] y) {
        s = Shape <end = 1> (x)  n = Squeeze (s)
        y = Loop (n, yes, x) <body = b (int64 i, bool go, float[b, 4] s) => (bool on, float[b, 4] next) {
            on = Identity (go)  next = Add (s, s) }> }""",
    "a loop until a row is large": """g (float[batch, 4] x) => (float[batch, 4] y) {
        y = Loop (three, yes, x) <body = b (int64 i, bool go, float[b, 4] s) => (bool on, float[b, 4] next) {
            next = Add (s, s)  m = ReduceMax <keepdims = 0> (s)  on = Less (m, half) }> }""",
    "a loop in whose second pass rows meet": """g (float[batch, 4] x) => (float[batch, 4] y) {
        z = Sub (x, x)
        y, w = Loop (three, yes, z, x) <body = b (int64 i, bool go, float[b, 4] s, float[b, 4] t)
            => (bool on, float[b, 4] next, float[b, 4] kept) {
            on = Identity (go)  next = Add (s, t)  kept = Softmax <axis = 0> (t) }> }""",
    "a scan from row to row": """g (float[batch, 4] x) => (float[batch, 4] y) {
        z = Sub (start, start)  r = Gather <axis = 0> (z, zero)
        last, y = Scan <num_scan_inputs = 1, body = b (float[4] s, float[4] e) => (float[4] next, float[4] seen) {
            next = Add (s, e)  seen = Identity (next) }> (r, x) }""",
    "a sequence of rows": """g (float[batch, 4] x) => (float[batch, 4] y) {
        n = Neg (x)  s = SequenceConstruct (x, n)  y = ConcatFromSequence <axis = 0> (s) }""",
}


def made(text):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    constants = CONSTANTS | {"pair": np.array([2, 2])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rows_that_keep_apart_inside_are_followed(name):
    model = made(INDEPENDENT[name])
    axes = {"out": 1}
    verdict = analyse(model, *specs(model, axes=axes))
    assert (verdict.rows, verdict.reason) == (Rows.INDEPENDENT, "")
    assert witness(model, axes=axes, sizes={"t": 5}) == ""


@pytest.mark.parametrize("name", MEETING)
def test_rows_that_meet_inside_are_found(name):
    model = made(MEETING[name])
    assert analyse(model, *specs(model)).rows is Rows.MEET
    assert witness(model)
