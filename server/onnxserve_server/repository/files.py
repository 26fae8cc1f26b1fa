"""What the files of a repository may be: regular ones, of a bounded size. Nothing here waits for a pipe or a device."""

import contextlib
import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from onnxserve_server.errors import ConfigurationError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def contained(path: Path) -> Iterator[None]:
    """Turn what is raised unexpectedly while a path is read or loaded into an error of that path alone.

    Raises:
        ConfigurationError: in place of any other exception; the log has its place in the code.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except MemoryError as error:
        raise ConfigurationError(
            f"{printable(path)}: not enough memory to load it: {error}; give the server more, or serve a smaller model"
        ) from error
    except Exception as error:  # a defect, or no descriptors or permission
        logger.exception("%s failed unexpectedly", printable(path))
        raise ConfigurationError(
            f"{printable(path)}: loading it failed unexpectedly ({type(error).__name__}: {error}); see the log"
        ) from error


def bytes_of_versions(directory: Path) -> int:
    """Return the bytes of the files in all versions of all models of a repository's directory."""
    total = 0
    for model in _entries(directory):
        for version in _entries(model):
            for file in _entries(version):
                with contextlib.suppress(OSError, ValueError):
                    total += file.stat().st_size
    return total


def _entries(directory: Path) -> list[Path]:
    """Return what a directory holds; nothing of what cannot be listed, which loading it reports."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def check_regular(path: Path) -> None:
    """Check that a path names a regular file, directly or by a link.

    Raises:
        ConfigurationError: it is not there, cannot be read, or is a directory, a pipe, a device or a socket.
    """
    os.close(_open(path))


def check_within(path: Path, directory: Path) -> None:
    """Check that a path lies within a directory, with links followed.

    Raises:
        ConfigurationError: it does not.
    """
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ConfigurationError(f"{printable(path)}: lies outside of {printable(directory)}; put it there")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal digits.

    Raises:
        ConfigurationError: as check_regular().
    """
    with open(_open(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return what a regular file holds.

    Raises:
        ConfigurationError: it cannot be read, is not a regular file, or holds more than `max_bytes`.
    """
    with open(_open(path), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ConfigurationError(f"{printable(path)}: larger than {max_bytes} bytes, the most that is read")
    return content


def is_dangling(path: Path) -> bool:
    """Whether a path is a link to something that is not there."""
    return path.is_symlink() and not os.path.exists(path)  # noqa: PTH110 - Path.exists() raises on loops of links


def missing(path: Path) -> str:
    """Say why a path names nothing: a link of which the target is gone, or nothing at all."""
    if is_dangling(path):
        return f"a link to {printable(path.readlink())}, which does not exist; repair or remove it"
    return "no such file"


def printable(path: Path) -> str:
    """Return a path as text that can be logged and sent, whatever bytes it has."""
    return os.fsencode(path).decode(errors="replace")


def _open(path: Path) -> int:
    """Open a file for reading without waiting for the other end of a pipe, and check what it is."""
    if not os.path.exists(path):  # noqa: PTH110 - as above
        raise ConfigurationError(f"{printable(path)}: {missing(path)}")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ConfigurationError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ConfigurationError(f"{printable(path)}: not a regular file; it must not be a directory, a pipe or a device")
