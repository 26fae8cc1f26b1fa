"""`onnxserve explain`: the contributions to one prediction of a model."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich import progress
from rich.console import Console

from onnxserve import ModelInfo
from onnxserve._base import DEFAULT_TIMEOUT
from onnxserve._cli.connection import DEFAULT_TARGET, Ca, Target, Tls, connect
from onnxserve._inputs import INPUT_HELP, InputError, read_inputs
from onnxserve.explain import Explainer, ExplainError, Explanation
from onnxserve.explain._explanation import Kind, Method
from onnxserve.explain._image import Layout, is_image
from onnxserve.explain._text import is_text, is_tokens
from onnxserve.tensor import Array

# For each kind of instance, the options that not every kind has.
_TAKEN: dict[Kind, frozenset[str]] = {
    "table": frozenset({"--background", "--names"}),
    "image": frozenset({"--background", "--mask", "--layout", "--regions", "--vary"}),
    "text": frozenset({"--mask", "--vary"}),
    "tokens": frozenset({"--mask", "--names", "--vary"}),
}

_ZERO = 1e-9  # of the strongest contribution: anything below is a rounding error

_BACKGROUND_HELP = (
    "name=file of rows to compare with; for a model of one input the name may be left out. "
    "For images: hidden pixels show the mean of these images."
)
_MASK_HELP = "The value of a hidden part: a number in images, a word in text, an id in token ids."
_ROWS_HELP = "Approximate limit of rows to send; default: 131072 (lime: 5000), images 1000, text and token ids 2000."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    inputs: Annotated[list[str], typer.Option("--input", help=INPUT_HELP)],
    index: Annotated[int | None, typer.Option(min=0, help="The row of the files to explain, from 0.")] = None,
    backgrounds: Annotated[list[str] | None, typer.Option("--background", help=_BACKGROUND_HELP)] = None,
    output: Annotated[str | None, typer.Option(help="The output to explain; default: the only one of floats.")] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--class", help="The class to explain, by label or index; default: the one with the highest score."
        ),
    ] = None,
    method: Annotated[Method, typer.Option(help="The method that explains.")] = "shap",
    kind: Annotated[
        Kind | None, typer.Option(help="The kind of instance; default: guessed from the model's inputs.")
    ] = None,
    mask: Annotated[str | None, typer.Option(help=_MASK_HELP)] = None,
    layout: Annotated[
        Layout | None, typer.Option(help="The axes of an image; default: guessed from its shape.")
    ] = None,
    regions: Annotated[
        int | None, typer.Option(min=2, help="The number of regions that LIME cuts an image into.")
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Names of features or tokens: a,b,c or a .txt file with one name per line.")
    ] = None,
    vary: Annotated[
        str | None, typer.Option(help="The name of the input that is the image, text or token ids.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help=_ROWS_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The seed of random draws.")] = 0,
    picture: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the explanation: .png.")] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write the whole explanation to this file; -: to stdout, and nothing else."
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="The version to run; default: the newest.")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for each request.")] = DEFAULT_TIMEOUT,
    target: Target = DEFAULT_TARGET,
    tls: Tls = False,
    ca: Ca = None,
) -> None:
    """Explain one prediction of a model by SHAP or LIME: how much each feature, region or word contributed."""
    _check_files(picture, json)
    # Without numba, shap takes less than a second here; numba alone would compile for ten seconds or more.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    with connect(target, tls=tls, ca=ca) as client, _progress() as on_progress:
        info = client.model(model, version, timeout=timeout)
        try:
            instance = {
                name: _row(info, name, array, index) for name, array in read_inputs(inputs, info.inputs).items()
            }
            background = _background(info, backgrounds or ())
            kind = kind or _kind(info, vary, background=bool(backgrounds), mask=mask is not None)
            given = {"--background": backgrounds, "--mask": mask, "--layout": layout, "--regions": regions}
            _check_options(kind, given | {"--names": names, "--vary": vary})
            explainer = Explainer(
                client,
                model,
                method=method,
                output=output,
                label=label,
                rows=rows,
                seed=seed,
                version=info.version,
                timeout=timeout,
                progress=on_progress,
            )
            match kind:
                case "table":
                    explanation = explainer.table(instance, background, names=_names(names))
                case "image":
                    shown = _image_mask(mask, background, vary)
                    settings = {"regions": regions} if regions else {}
                    explanation = explainer.image(instance, mask=shown, layout=layout, vary=vary, **settings)
                case "text":
                    explanation = explainer.text(instance, mask=mask or "", vary=vary)
                case "tokens":
                    explanation = explainer.tokens(instance, mask=_id(mask), names=_names(names), vary=vary)
        except (InputError, ExplainError) as error:
            raise typer.BadParameter(str(error)) from None
    _write(explanation, picture, json)


def _row(info: ModelInfo, name: str, array: Array, index: int | None) -> Array:
    """Return the row of a file to explain; for an input without rows, the whole array."""
    spec = next((spec for spec in info.inputs if spec.name == name), None)
    if spec is None or spec.batch_axis != 0 or array.ndim != len(spec.shape):
        return array
    if index is None and len(array) != 1:
        raise InputError(f"{name}: the file has {len(array)} rows; choose one with --index")
    if index is not None and index >= len(array):
        raise InputError(f"{name}: --index {index} is out of range; the file has {len(array)} rows")
    index = index or 0
    return array[index : index + 1]


def _background(info: ModelInfo, arguments: Sequence[str]) -> Mapping[str, Array]:
    alone = info.inputs[0].name if len(info.inputs) == 1 else None
    named = [f"{alone}={each}" if alone and not each.startswith(f"{alone}=") else each for each in arguments]
    return read_inputs(named, info.inputs)


def _kind(info: ModelInfo, vary: str | None, *, background: bool, mask: bool) -> Kind:
    specs = [spec for spec in info.inputs if vary in {None, spec.name}]
    if any(map(is_text, specs)) and not background:
        return "text"
    if any(is_image(spec) and (len(spec.shape) == 4 or not background) for spec in specs):
        return "image"
    return "tokens" if mask and any(map(is_tokens, specs)) else "table"


def _check_options(kind: Kind, given: Mapping[str, Any]) -> None:
    if wrong := [option for option, value in given.items() if value is not None and option not in _TAKEN[kind]]:
        raise InputError(f"{wrong[0]} is not an option for {kind}; set the kind of instance with --kind")
    if kind == "table" and given["--background"] is None:
        raise InputError("a table needs --background: rows to compare with, such as a hundred of the training data")


def _image_mask(mask: str | None, background: Mapping[str, Array], vary: str | None) -> Any:
    if mask is not None:
        if background:
            raise InputError("hidden pixels show either --mask or the mean of --background; give only one of them")
        try:
            return float(mask)
        except ValueError:
            raise InputError(f"--mask must be a number for images, not {mask!r}") from None
    if not background:
        return None
    images = background.get(vary or next(iter(background)))
    if images is None or not len(images):
        raise InputError(f"--background has no images for input {vary!r}")
    return images.astype(np.float64).mean(axis=0)


def _id(mask: str | None) -> int:
    try:
        return int(mask or "")
    except ValueError:
        raise InputError("token ids need --mask, the id that replaces a hidden one, such as --mask 0") from None


def _names(text: str | None) -> list[str] | None:
    if text is None or not text.endswith(".txt"):
        return text.split(",") if text else None
    try:
        return Path(text).read_text().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--names {text}: {error}") from None


def _check_files(picture: Path | None, json: Path | None) -> None:
    """Refuse files that cannot be written, before the model is called."""
    if picture and picture.suffix != ".png":
        raise typer.BadParameter(f"{picture}: the name must end with .png", param_hint="--plot")
    for option, path in (("--plot", picture), ("--json", json)):
        if path and not path.parent.is_dir():
            raise typer.BadParameter(f"{path}: {path.parent} is not a directory", param_hint=option)


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Draw a progress bar at a terminal; give the function that updates it."""
    console = Console(stderr=True, highlight=False)
    bar = progress.Progress(
        progress.TextColumn("rows"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("")
        yield lambda answered, expected: bar.update(task, completed=answered, total=expected)


def _write(explanation: Explanation, picture: Path | None, json: Path | None) -> None:
    try:
        if picture:
            picture.write_bytes(explanation.plot())
        if json == Path("-"):
            typer.echo(explanation.to_json())
            return
        if json:
            json.write_text(explanation.to_json() + "\n")
    except OSError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo("\n".join(_lines(explanation)))


def _lines(explanation: Explanation) -> Iterator[str]:
    yield (
        f"{explanation.model} version {explanation.version}: {explanation.target} = {explanation.prediction:.5g}, "
        f"{explanation.method.upper()} from {explanation.base:.5g}"
    )
    top = explanation.top()
    for name, value in top:
        rounded = value if abs(value) > _ZERO * abs(top[0][1]) else 0.0
        yield f"  {rounded:+.4g}\t{name}".expandtabs(14)
    left = explanation.values.size - len(top)
    if explanation.values.ndim == 1 and left:
        yield f"  and {left} weaker ones"
    if explanation.fit is not None:
        yield f"LIME's linear model explains {explanation.fit:.0%} of the variance of the answers (R²)"
    compared = f", compared with {explanation.background_rows} background rows" if explanation.background_rows else ""
    yield (
        f"{explanation.rows:,} rows in {explanation.requests:,} requests, up to {explanation.batch_rows} rows a run"
        + compared
    )
