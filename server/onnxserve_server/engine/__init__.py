"""Hop 2, and the entry to everything behind it: requests go in, each calls back once."""
