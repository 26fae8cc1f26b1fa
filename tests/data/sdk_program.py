"""What a user's program does with the SDK, against a server for the models of support.stepping.

    python sdk_program.py HOST:PORT

Run with the SDK of an earlier release on PYTHONPATH, so it uses nothing but the public names of the first one. It ends
with the version of the SDK and the file that it came from.
"""

import asyncio
import sys

import numpy as np

import onnxserve

ROW = np.array([[1, 2, 3]], np.float32)


def two(value):
    return {"x": np.full((1, 2), value, np.float32)}


def n(value):
    return {"n": np.full((1, 1), value, np.float32)}


def predict(client):
    prediction = client.predict("double", {"x": ROW}, priority=1, timeout=10, outputs=["y"])
    np.testing.assert_array_equal(prediction["y"], 2 * ROW)
    assert prediction.receipt.batch_rows >= 1
    assert prediction.receipt.provider == "CPUExecutionProvider"


def stream(client):
    rows = [ROW * number for number in range(50)]
    answers = list(client.stream("double", ({"x": row} for row in rows)))
    np.testing.assert_array_equal([answer["y"] for answer in answers], [2 * row for row in rows])


def sequences(client):
    with client.sequence("recurrent") as sequence:
        assert [float(sequence.step(two(value))["y"][0, 0]) for value in (1, 2)] == [3, 7.5]
        sequence.step(two(3), snapshot=True)
        state = sequence.state
        after = float(sequence.step(two(4))["y"][0, 0])
    with client.sequence("recurrent", state=state) as resumed:
        assert float(resumed.step(two(4))["y"][0, 0]) == after
    with client.sequence("countdown", outputs=["next"]) as generator:
        steps = generator.generate(n(3), max_steps=10, stop=onnxserve.Stop("done"))
        assert [float(step["next"][0, 0]) for step in steps] == [2, 1, 0]


def models(client):
    assert {"double", "recurrent", "countdown"} <= {model.name for model in client.models()}
    info = client.model("double")
    assert [(spec.name, np.dtype(spec.dtype)) for spec in info.inputs] == [("x", np.dtype(np.float32))]
    assert info.batching.enabled
    assert client.ready()
    assert client.ready("double")


def errors(client):
    try:
        client.predict("nothing", {"x": ROW})
    except onnxserve.NotFound as error:
        assert error.reason == "MODEL_NOT_FOUND"
    else:
        raise AssertionError("a model that is not served was found")
    try:
        client.predict("double", {"x": np.zeros((1, 4), np.float32)}, timeout=10)
    except onnxserve.InvalidArgument as error:
        assert [violation.field for violation in error.violations] == ["inputs[0].shape"]
    else:
        raise AssertionError("a wrong shape was accepted")


async def tasks(address):
    async with onnxserve.AsyncClient(address) as client:
        predictions = await asyncio.gather(*(client.predict("double", {"x": ROW * i}) for i in range(32)))
    np.testing.assert_array_equal([each["y"] for each in predictions], [2 * ROW * i for i in range(32)])


def main(address):
    with onnxserve.Client(address) as client:
        for use in (models, predict, stream, sequences, errors):
            use(client)
    asyncio.run(tasks(address))
    print(onnxserve.__version__, onnxserve.__file__)


if __name__ == "__main__":
    main(sys.argv[1])
