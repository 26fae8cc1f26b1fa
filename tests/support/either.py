"""The same program for either client, in a process of its own: what the one gives, the other has awaited."""

EITHER = """
import inspect, sys
import numpy as np
import onnxserve

row = np.ones((1, 3), np.float32)
x = {"x": row[:, :2]}

def some(count):
    return [{"x": row}] * count

async def make(target, **options):  # of the kind that the last argument names
    return getattr(onnxserve, sys.argv[-1])(target, **options)

async def given(result):
    return await result if inspect.isawaitable(result) else result

async def rest(answers):
    return [each async for each in answers] if inspect.isasyncgen(answers) else list(answers)

def first(answers):
    return anext(answers) if inspect.isasyncgen(answers) else next(answers)
"""
