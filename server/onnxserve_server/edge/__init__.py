"""Hops 1 and 7: receive and reply. Everything that knows gRPC is here, and nothing here decides about requests.

server.py        the gRPC server: what it serves, over which edge, from start to stop
lane.py          the fast edge: methods of a public grpc.server, driven from a completion queue of their own
self_test.py     real calls through a lane, at each start: whether it works with this grpcio
plain.py         the other edge: the same methods as ordinary handlers of that server
public.py        methods that are seldom called, as handlers of that server
pool.py          its threads
reflection.py    server reflection, as a handler of streaming calls
connections.py   the connections by caller, and the end of those that harm
messages.py      bytes to messages: what is none, or is compressed
fields.py        how many fields a message has, counted before it is parsed
unsent.py        replies that their callers do not read, and how much of them there may be
calls.py         a call as handlers see it, over either edge
codec.py         a protocol as handlers see it: messages to and from the engine's nouns
onnxserve_v1.py  the codec of onnxserve.v1
predict.py       the handler of unary calls
stream.py        the handler of one streaming call, a state machine
streams.py       the handler of all streaming calls: it makes the former, and ends them when the server stops
inflight.py      the requests of a stream in flight, their unsent replies, and how much of both there may be
replies.py       the replies of a stream: outcomes to messages, and to the observer
status.py        the engine's errors as gRPC statuses
load_report.py   the server's load as trailing metadata, for clients that balance by it
models.py        ModelService
health.py        grpc.health.v1
"""
