"""The sources of trained models: one module for each framework, imported only when it is needed."""
