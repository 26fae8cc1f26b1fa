"""Hops 3, 4 and 6: queue the jobs of a model, form batches, give every job its own rows back."""
