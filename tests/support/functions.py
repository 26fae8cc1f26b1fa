"""Functions for onnxserve.testing to serve, and their inputs."""

import numpy as np

from onnxserve import testing

FOR_EVER = 60.0  # longer than any test waits
X = {"x": np.array([[1.0, 2.0]], np.float32)}


def double(inputs):
    return {"y": 2 * inputs["x"]}


def wait_for_cancellation(left):
    """A function that goes on until nobody waits for it, and then notes that in a list."""

    def wait(inputs):
        request = testing.current_request()
        if request.cancelled.wait(FOR_EVER):
            left.append(request.request_id)
        return inputs

    return wait
