"""The server of onnxserve: models of a repository behind gRPC, with batches formed across callers.

How a request travels through the server, in seven hops. The names are the same in docs/architecture.md:

    1 receive   edge/          takes the message from the call and decodes it; decides nothing
    2 admit     engine/        checks it against the model: a Request becomes a Job, or an error that names the field
    3 queue     scheduling/    into the bucket of its row shape, bounded in rows and bytes
    4 batch     scheduling/    when a slot is free, jobs from the head of a bucket become a Batch
    5 run       runtime/       the Batch on the ONNX Runtime session
    6 scatter   scheduling/    every Job ends with its own rows, once
    7 reply     edge/          encodes and sends

The nouns stand in core.py (a request on its way) and spec.py (a model), the errors in errors.py. repository/ finds
models on disk and owns their lives; engine/table.py holds those that serve. settings.py holds what an operator can
configure; app.py wires everything together, starts, drains and stops; commands.py is the command line.

Imports point one way: app -> edge | web -> telemetry -> repository -> engine -> scheduling -> runtime | core -> spec |
errors. tests/server/test_boundaries.py keeps it so.
"""

import os

# Before it is first imported: ONNX Runtime 1.31 reports its use to its makers unless this is set (0 lets it).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
