"""Hops 1 and 7: receive and reply. Everything that knows gRPC is here, and nothing here decides about requests.

lane.py      the fast edge: hot methods of a public grpc.server, driven from a completion queue of their own
plain.py     the same methods as ordinary handlers of that server
predict.py   what both do with a Predict call
codec.py     messages to and from the engine's nouns
status.py    the engine's errors to gRPC statuses
models.py    ModelService
health.py    grpc.health.v1
"""
