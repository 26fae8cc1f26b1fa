"""Put a finished version into a repository: whole or not at all, whatever is killed on the way."""

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

# Waits for the end of whoever holds the other end of its stdin. A process that is being killed may still write.
_JANITOR = 'read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$1" && break; sleep 1; done'


@dataclass(frozen=True, slots=True)
class Target:
    """Where a version goes: REPOSITORY/NAME/VERSION; version None is the next number."""

    repository: Path
    name: str
    version: int | None

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.repository / self.name

    def place(self) -> Path:
        """Return the version's folder; the number that comes next is looked up."""
        return self.folder / str(_next_version(self.folder) if self.version is None else self.version)


def parse_target(text: str | Path) -> Target:
    """Read REPOSITORY/NAME or REPOSITORY/NAME/VERSION.

    Raises:
        BadRequest: there is no name in it, or none that a model can have.
    """
    path = Path(text)
    version = None
    if path.name.isdecimal() and path.parent.name:
        if not _VERSION.fullmatch(path.name):
            raise BadRequest(f"--to {text}: a version is a number of at most 18 digits, without zeros before it")
        version, path = int(path.name), path.parent
    if not _NAME.fullmatch(path.name):
        raise BadRequest(
            f"--to {text}: write REPOSITORY/NAME or REPOSITORY/NAME/VERSION; a name is made of letters, digits, "
            "'.', '_' and '-', and a version is a number"
        )
    return Target(path.parent, path.name, version)


def check_target(target: Target, replace: bool) -> None:
    """Check what can be known before the work begins.

    Raises:
        BadRequest: the version exists and may not be replaced, or the place is none for a model.
    """
    with _told_as_bad_request(target.folder):
        for path in (target.repository, target.folder):
            if os.path.lexists(path) and not path.is_dir():
                raise BadRequest(f"{path}: it is no folder, so no model can be published in it")
        if any(target.folder.glob("[!.]*/[0-9]*/model.onnx")):
            raise BadRequest(f"--to {target.folder}: this is a repository; name the model too: {target.folder}/NAME")
        if target.version is not None and not replace and os.path.lexists(target.place()):
            raise _exists(target.place())


@contextlib.contextmanager
def vanishing_folder(place: Path) -> Iterator[Path]:
    """Give an empty hidden folder in `place`; it is removed at the end, even if that is SIGKILL.

    Raises:
        BadRequest: the place cannot be written to.
    """
    folder = place.absolute() / f".onnxserve-{secrets.token_hex(8)}"
    janitor = subprocess.Popen(  # noqa: S603 - started first, so that there is no moment when nobody would clean up
        ["/bin/sh", "-c", _JANITOR, "sh", str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # what ends this process group must not end the janitor
    )
    try:
        with _told_as_bad_request(place):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        janitor.communicate()


def staging(target: Target) -> contextlib.AbstractContextManager[Path]:
    """Give a vanishing folder from which a version can be moved to its place in one step.

    Raises:
        BadRequest: the place cannot be written to.
    """
    folder = target.folder.resolve()
    return vanishing_folder(next(path for path in (folder, *folder.parents) if os.path.lexists(path)))


def publish(staged: Path, target: Target, config: str, replace: bool) -> Path:
    """Move a staged folder to its place in one step, and return that place.

    Args:
        staged: the folder that becomes the version; it lies in a staging() folder.
        target: where to.
        config: what model.yaml must say; "" for nothing. A model.yaml that is there already stays.
        replace: whether an existing version may be replaced.

    Raises:
        BadRequest: the version exists, the place cannot be written to, or a model.yaml is there that lacks `config`.
    """
    with _told_as_bad_request(target.folder):
        _sync(staged)
        while True:
            place = target.place()
            try:
                if target.folder.is_dir():
                    _publish_config(staged.parent, target.folder / _CONFIG, config)
                    exchange = replace and target.version is not None and place.exists()
                    _rename(staged, place, _RENAME_EXCHANGE if exchange else _RENAME_NOREPLACE)
                else:
                    _publish_with_folders(staged, place, config)
            except FileExistsError:  # another conversion was quicker: with this version, or only with the folders
                if target.version is not None and os.path.lexists(place):
                    raise _exists(place) from None
            else:
                return place


def _publish_with_folders(staged: Path, place: Path, config: str) -> None:
    """Publish a version together with the folders above it that there are not: the model's, the repository's."""
    place = place.resolve()
    missing = [path for path in reversed(place.parents) if not os.path.lexists(path)]
    if not missing:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place.parent))
    top, tree = missing[0], staged.parent / "tree"
    version = tree / place.relative_to(top)
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
    """Publish what model.yaml must say: before the version, which must not be there without it."""
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
        raise BadRequest(f"{file}: this model can be served only with a line more in it: {config.strip()}")


def _next_version(folder: Path) -> int:
    if not folder.is_dir():
        return 1
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)


def _exists(place: Path) -> BadRequest:
    return BadRequest(
        f"{place}: this version exists; --replace overwrites it, and without a version the next number is taken"
    )


@contextlib.contextmanager
def _told_as_bad_request(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadRequest(f"{path}: it cannot be written to: {error.strerror}") from error


def _sync(folder: Path) -> None:
    """Wait until a folder is on the disk: else, after a loss of power, its name could be there without its content."""
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
    # NFS and some others have no such flags: there another process can come in between.
    if flags == _RENAME_EXCHANGE:
        new.rename(old.with_name("replaced"))
    elif os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    old.rename(new)
