"""The command line: `onnxserve`, or `python -m onnxserve`."""

import os
import signal
import sys


def main() -> None:
    """Run the command line; exit with 2 when the packages that it needs are not installed."""
    if os.getpid() == 1:  # Linux gives such a process, a container's first, no signal that it has no handler for
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    try:
        from onnxserve._cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        sys.stderr.write("onnxserve: the command line needs an extra: pip install 'onnxserve[cli]'\n")
        raise SystemExit(2) from None
    app(prog_name="onnxserve")


if __name__ == "__main__":
    main()
