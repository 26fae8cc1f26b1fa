"""What can go wrong with a conversion. Each error ends the command with its own exit code."""

from typing import Any


class ConverterError(Exception):
    """A conversion that published nothing; its text is one sentence that names the place and the cure."""

    exit_code = 1


class BadRequest(ConverterError):
    """What was asked for cannot be done: a file, an option or an installed package is at fault. Exit code 2."""

    exit_code = 2


class ExportFailed(ConverterError):
    """The framework's exporter, or ONNX Runtime, could not handle the model. Exit code 1."""


class NotProved(ConverterError):
    """The ONNX file does not do what the model does. Exit code 1.

    Attributes:
        report: what was found, as it would stand in report.json.
    """

    def __init__(self, message: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = report or {}


def one_line(error: BaseException, lines: int | None = None) -> str:
    """Return the telling part of an exception's text: its first `lines` lines, and no more than 400 characters."""
    told = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(told[:lines])[:400]}" if told else type(error).__name__
