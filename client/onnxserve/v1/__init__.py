"""The generated messages and stubs of the wire contract."""
