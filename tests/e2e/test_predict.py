"""A model answers over the network."""

import numpy as np

from support import zoo


def test_a_request_gets_its_own_rows_and_a_receipt(serve):
    server = serve({"double": zoo.double()})
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    prediction = server.client.predict("double", {"x": x}, request_id="mine")
    np.testing.assert_array_equal(prediction["y"], 2 * x)
    assert (prediction.model, prediction.version, prediction.request_id) == ("double", "1", "mine")
    assert (prediction.receipt.batch_rows, prediction.receipt.batch_requests) == (2, 1)
    assert prediction.receipt.provider == "CPUExecutionProvider"
