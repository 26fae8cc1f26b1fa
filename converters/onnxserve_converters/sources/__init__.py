"""Where trained models come from: one module a framework, each imported only when it is needed."""
