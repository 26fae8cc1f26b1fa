"""Hop 2, and the one door to everything behind it: requests go in, each calls back once."""
