"""Publishes a finished version into a repository: whole or not at all, even if a process is killed meanwhile."""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxserve_converters.errors import BadRequest

_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_AT_FDCWD = -100  # Linux, fcntl.h
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # Linux, stdio.h
_CONFIG = "model.yaml"

# Waits until its stdin is closed, which the end of this process does. A process that is being killed may still write.
_JANITOR = 'read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$1" && break; sleep 1; done'


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of a version: REPOSITORY/NAME/VERSION; version None is the next number."""

    repository: Path
    name: str
    version: int | None

    @property
    def folder(self) -> Path:
        """The model's directory."""
        return self.repository / self.name

    def path(self) -> Path:
        """Return the version's directory; without a version, that of the next number."""
        return self.folder / str(_next_version(self.folder) if self.version is None else self.version)


def parse_target(text: str | Path) -> Target:
    """Read REPOSITORY/NAME or REPOSITORY/NAME/VERSION.

    Raises:
        BadRequest: the text has no name or an invalid one.
    """
    path = Path(text)
    version = None
    if path.name.isdecimal() and path.parent.name:
        if not _VERSION.fullmatch(path.name):
            raise BadRequest(
                f"--to {text}: invalid version; expected a number of at most 18 digits without leading zeros"
            )
        version, path = int(path.name), path.parent
    if not _NAME.fullmatch(path.name):
        raise BadRequest(
            f"--to {text}: expected REPOSITORY/NAME or REPOSITORY/NAME/VERSION; a name consists of letters, digits, "
            "'.', '_' and '-' and begins with a letter or digit, and a version is a number"
        )
    return Target(path.parent, path.name, version)


def check_target(target: Target, replace: bool) -> None:
    """Check a target before the conversion starts.

    Raises:
        BadRequest: the version exists and may not be replaced, or the path cannot hold a model.
    """
    with _os_errors_as_bad_requests(target.folder):
        for path in (target.repository, target.folder):
            if os.path.lexists(path) and not path.is_dir():
                raise BadRequest(f"{path}: not a directory; choose another --to")
        if any(target.folder.glob("[!.]*/[0-9]*/model.onnx")):
            raise BadRequest(
                f"--to {target.folder}: this is a model repository; add a model name: {target.folder}/NAME"
            )
        if target.version is not None and not replace and os.path.lexists(target.path()):
            raise _exists(target.path())


@contextlib.contextmanager
def vanishing_folder(parent: Path) -> Iterator[Path]:
    """Provide an empty hidden directory in `parent`; it is removed at the end, even after SIGKILL.

    Raises:
        BadRequest: `parent` cannot be written to.
    """
    folder = parent.absolute() / f".onnxserve-{secrets.token_hex(8)}"
    janitor = subprocess.Popen(  # noqa: S603 - started first, so that the directory never exists without it
        ["/bin/sh", "-c", _JANITOR, "sh", str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # signals to this process group must not reach the janitor
    )
    try:
        with _os_errors_as_bad_requests(parent):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        janitor.communicate()


def staging(target: Target) -> contextlib.AbstractContextManager[Path]:
    """Provide a vanishing directory on the target's file system, from which a version can be moved in one step.

    Raises:
        BadRequest: the target cannot be written to.
    """
    folder = target.folder.resolve()
    return vanishing_folder(next(path for path in (folder, *folder.parents) if os.path.lexists(path)))


def publish(staged: Path, target: Target, config: str, replace: bool) -> Path:
    """Move a staged directory to the target in one step, and return its new path.

    Args:
        staged: the version's directory, inside a staging() directory.
        target: the destination.
        config: the text that model.yaml needs; "" for none. An existing model.yaml is kept.
        replace: whether an existing version may be replaced.

    Raises:
        BadRequest: the version exists, the target cannot be written to, or an existing model.yaml lacks `config`.
    """
    with _os_errors_as_bad_requests(target.folder):
        _open_to_umask(staged)
        _sync(staged)
        while True:
            path = target.path()
            try:
                if target.folder.is_dir():
                    _publish_config(staged.parent, target.folder / _CONFIG, config)
                    exchange = replace and target.version is not None and path.exists()
                    _rename(staged, path, _RENAME_EXCHANGE if exchange else _RENAME_NOREPLACE)
                else:
                    _publish_with_folders(staged, path, config)
            except FileExistsError:  # another conversion has made this version, or only its parent directories
                if target.version is not None and os.path.lexists(path):
                    raise _exists(path) from None
            else:
                return path


def _publish_with_folders(staged: Path, path: Path, config: str) -> None:
    """Publish a version together with its missing parent directories: the model's, the repository's."""
    path = path.resolve()
    missing = [parent for parent in reversed(path.parents) if not os.path.lexists(parent)]
    if not missing:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path.parent))
    top, tree = missing[0], staged.parent / "tree"
    version = tree / path.relative_to(top)
    version.parent.mkdir(parents=True)
    if config:
        (version.parent / _CONFIG).write_text(config)
    staged.rename(version)
    try:
        _rename(tree, top, _RENAME_NOREPLACE)
    except FileExistsError:
        version.rename(staged)
        shutil.rmtree(tree)
        raise


def _publish_config(work: Path, file: Path, config: str) -> None:
    """Publish model.yaml; this comes before the version, which cannot be served without it."""
    if not config:
        return
    if not os.path.lexists(file):
        (work / _CONFIG).write_text(config)
        _rename(work / _CONFIG, file, _RENAME_NOREPLACE)
        return
    from onnxserve_server.errors import ConfigurationError
    from onnxserve_server.repository.config import read_config

    (work / _CONFIG).write_text(config)
    try:
        missing = read_config(work / _CONFIG, {}).model_fields_set - read_config(file, {}).model_fields_set
    except ConfigurationError as error:
        raise BadRequest(str(error)) from error
    if missing:
        raise BadRequest(f"{file}: add this line, without which the model cannot be served: {config.strip()}")


def _next_version(folder: Path) -> int:
    if not folder.is_dir():
        return 1
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)


def _exists(path: Path) -> BadRequest:
    return BadRequest(
        f"{path}: this version exists; replace it with --replace, or leave the version out for the next number"
    )


@contextlib.contextmanager
def _os_errors_as_bad_requests(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadRequest(f"{path}: cannot be written: {error.strerror}") from error


def _open_to_umask(folder: Path) -> None:
    """Give files the modes that the umask allows: onnx writes external data for its own user alone."""
    status = Path("/proc/self/status").read_text()  # os.umask() would change that of other threads for a moment
    umask = next(int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:"))
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _sync(folder: Path) -> None:
    """Flush a directory to disk: otherwise a power failure could leave its name without its content."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename(old: Path, new: Path, flags: int) -> None:
    """renameat2(2): an atomic rename that replaces nothing, or an atomic exchange."""
    status = ctypes.CDLL(None, use_errno=True).renameat2(
        _AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags
    )
    if not status:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(new))
    # NFS and some others lack these flags: there another process can interfere between the steps.
    if flags == _RENAME_EXCHANGE:
        new.rename(old.with_name("replaced"))
    elif os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    old.rename(new)
