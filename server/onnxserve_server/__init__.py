"""The server of onnxserve: models of a repository behind gRPC, with batches formed across callers.

A request's way, in seven hops. The names are the same in docs/architecture.md:

    1 receive   edge/          takes the message from the call and decodes it; decides nothing
    2 admit     engine/        checks it against the model: a Request becomes a Job, or an error that names the field
    3 queue     scheduling/    into the bucket of its row shape, bounded in rows and bytes
    4 batch     scheduling/    when a slot is free, jobs from the head of a bucket become a Batch
    5 run       runtime/       the Batch on the ONNX Runtime session
    6 scatter   scheduling/    every Job ends with its own rows, once
    7 reply     edge/          encodes and sends

The nouns stand in core.py, what can go wrong in errors.py. repository/ finds models on disk and makes them serve;
settings.py is what an operator can say; app.py wires it all, starts, drains and stops; commands.py is the command line.
Imports point one way: app -> edge -> engine -> scheduling -> runtime, and repository -> scheduling, runtime.
"""

import os

# Before it is first imported: ONNX Runtime 1.31 reports its use to its makers unless it is told not to. Who wants it to
# sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
