"""Load for a server, and what it did to it: what `onnxserve bench` is made of.

    workload    the requests: the caller's inputs, or made-up ones of the right shapes and types
    load        how they come: so many callers, or so many a second
    sending     one request over either method, Predict or Stream
    generator   sends a workload under a load, and times it
    cpu         how busy this process and the machine were meanwhile
    sample      what was measured under one load
    advice      which load was best, and what that says of the batch settings
    report      all of it as JSON
    table       the figures as text
    plot        latency over throughput: SVG and HTML by ourselves, PNG by matplotlib

It never imports the server.
"""
