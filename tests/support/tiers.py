"""A pytest plugin: which tests are `fast`, so that `make test-fast` can choose them by `-m fast`.

Fast is what calls functions, or a server in the tests' own process over its usual edge. Left out are tests that start
programs or a browser, the second edge, on which the same tests run again, and what is marked `slow`.
"""

import pytest

STARTING = {"driver", "launch", "onnxserve"}  # fixtures that start a browser, a server or a command
PROGRAMS = {"test_bench_command.py", "test_examples.py", "test_names.py"}  # files that start programs otherwise
SECOND_EDGE = {"edge": "plain", "shared": "plain"}


def is_fast(item):
    """Say whether a test belongs to `make test-fast`, by its marks, its file, its fixtures and their parameters."""
    parameters = getattr(item, "callspec", None)
    on_second_edge = parameters is not None and SECOND_EDGE.items() & parameters.params.items()
    starts_programs = item.path.name in PROGRAMS or STARTING & set(item.fixturenames)
    return not (item.get_closest_marker("slow") or starts_programs or on_second_edge)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark them before -m is applied."""
    for item in items:
        if is_fast(item):
            item.add_marker("fast")
