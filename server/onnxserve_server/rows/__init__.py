"""Whether the rows of a run can change each other, read from the graph: an abstract interpretation of a model.

Each value of the graph is replaced by what is known of it for every number of rows: on which axis the rows lie, whether
it depends on the number of rows, and, where it is small, what it contains as a formula of sizes.

    analysis.py        analyse(): the verdict on a model
    interpreter.py     walks graph and functions, node by node, within its budget
    node.py            what a rule may ask of a node
    values.py          what is known of a value; joining.py: what holds of one of two
    axes.py            the axes of values, and which of them counts rows; sizes.py: sizes as formulas
    table.py           the rules that are data: which axes an operator carries, and which it mixes
    notation.py        reads and applies the notation of that table
    *_rules.py         the rules that need more than the notation
    registry.py        the rule of an operator, by domain and name

It imports onnx, and runs in the process that tries a model, never in the one that serves.
"""
