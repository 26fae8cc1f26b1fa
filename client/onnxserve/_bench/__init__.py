"""The parts of `onnxserve bench`: load for a server, and measurements.

    workload    the requests: the caller's inputs, or made-up ones of the right shapes and types
    load        how requests arrive: from a number of callers, or at a rate
    sending     one request over either method, Predict or Stream
    generator   sends a workload under a load, and times it
    cpu         the CPU use of this process and of the machine during a load
    sample      the measurements of one load
    advice      the best load, and hints about the batch settings
    report      the whole report as JSON
    table       the figures as text
    plot        latency over throughput: SVG and HTML written here, PNG by matplotlib

It never imports the server.
"""
