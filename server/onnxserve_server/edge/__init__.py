"""Hops 1 and 7: receive and reply. Everything that knows gRPC is here, and nothing here decides about requests.

lane.py      the fast edge: hot methods of a public grpc.server, driven from a completion queue of their own
plain.py     the same methods as ordinary handlers of that server
predict.py   what both do with a Predict call
stream.py    what both do with a Stream call
streams.py   all streams together: their bound, and their end
inflight.py  what a stream has in flight: requests in order, unsent answers, and how much of them there may be
onnxserve_v1.py messages to and from the engine's nouns
replies.py   what becomes of the outcomes of a stream's requests
status.py    the engine's errors to gRPC statuses
models.py    ModelService
health.py    grpc.health.v1
"""
