"""A pytest plugin: at the end of a run, which files took how long, also where several processes shared them."""

from collections import Counter

MAX_FILES = 25


class Durations:
    """Adds up, file by file, what setting up, running and tearing down took in seconds, whichever process did it."""

    def __init__(self):
        self.seconds = Counter()

    def pytest_runtest_logreport(self, report):
        self.seconds[report.location[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter):
        """Print the longest files, the longest first."""
        terminalreporter.section(f"durations of {len(self.seconds)} files, the longest {MAX_FILES}")
        for file, seconds in self.seconds.most_common(MAX_FILES):
            terminalreporter.line(f"{seconds:8.1f} s  {file}")
        terminalreporter.line(f"{self.seconds.total():8.1f} s  in total, of all processes together")


def pytest_configure(config):
    config.pluginmanager.register(Durations(), "durations by file")
