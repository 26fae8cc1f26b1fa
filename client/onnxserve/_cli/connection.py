"""The options with which commands reach a server, and their exit when a call fails."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import grpc
import typer

from onnxserve import Client, OnnxserveError, Unavailable

Target = Annotated[
    str, typer.Option("--target", envvar="ONNXSERVE_TARGET", help="The server: host:port or a gRPC name.")
]
Tls = Annotated[bool, typer.Option("--tls", help="Encrypt the connection.")]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        exists=True,
        dir_okay=False,
        readable=True,
        help="PEM file of the certificate authorities to trust; implies --tls.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_MAX_CONNECTING = 5.0  # seconds

DEFAULT_TARGET = "localhost:8500"


def credentials_of(*, tls: bool, ca: Path | None) -> grpc.ChannelCredentials | None:
    """Return the TLS credentials that the options ask for; None: no encryption."""
    return grpc.ssl_channel_credentials(ca.read_bytes() if ca else None) if tls or ca else None


@contextlib.contextmanager
def connect(target: str, *, tls: bool, ca: Path | None) -> Iterator[Client]:
    """Lend a client; if a call fails, print its error on stderr and exit with 1."""
    try:
        with Client(target, credentials=credentials_of(tls=tls, ca=ca)) as client:
            if unreached := client._why_unsent(timeout=_MAX_CONNECTING):  # calls would wait for a server
                raise unreached
            yield client
    except Unavailable as error:
        if error.reason:  # sent by a server
            typer.echo(f"onnxserve: {error}", err=True)
        else:
            cures = ["start one with `onnxserve serve`", "name another with --target"]
            if tls or ca:
                cures.append("leave out --tls and --ca where the server has no TLS")
            choice = f"{', '.join(cures[:-1])}, or {cures[-1]}"
            typer.echo(f"onnxserve: no server answers at {target} ({error}); {choice}", err=True)
        raise typer.Exit(1) from None
    except (OnnxserveError, ImportError, ValueError) as error:  # the last two: the answer cannot be decoded here
        typer.echo(f"onnxserve: {error}", err=True)
        raise typer.Exit(1) from None
