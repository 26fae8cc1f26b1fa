"""The errors of a conversion. Each ends the command with its own exit code."""

from typing import Any


class ConverterError(Exception):
    """The conversion failed and published nothing. The text is one sentence that names the place and the cure."""

    exit_code = 1


class BadRequest(ConverterError):
    """The request cannot be fulfilled: a file, an option or an installed package is at fault. Exit code 2."""

    exit_code = 2


class ExportFailed(ConverterError):
    """The framework's exporter, or ONNX Runtime, could not handle the model. Exit code 1."""


class NotProved(ConverterError):
    """The ONNX file does not match the model. Exit code 1.

    Attributes:
        report: the results so far, as they would appear in report.json.
    """

    def __init__(self, message: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = report or {}


def one_line(error: BaseException, lines: int | None = None) -> str:
    """Return an exception's class and the first `lines` lines of its text (None: all) on one line of 400 characters."""
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(text[:lines])[:400]}" if text else type(error).__name__
