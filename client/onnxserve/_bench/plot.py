"""Latency over throughput, as a picture: SVG and HTML are written here, PNG by matplotlib."""

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

from onnxserve._bench.advice import cautions
from onnxserve._bench.report import Report
from onnxserve._bench.sample import Sample
from onnxserve._bench.table import HEAD, cells

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 64, 56, 60
# Plain rules, one for each class: viewers other than browsers do not know variables, and ignore the dark colours.
_STYLE = """
  .chart { font: 13px system-ui, sans-serif; }
  .chart text { fill: #5b6675; }
  .chart .title { fill: #1c2430; font-size: 15px; font-weight: 600; }
  .chart .load { fill: #1c2430; }
  .chart .paper { fill: #ffffff; }
  .chart .grid { stroke: #e3e7ec; }
  .chart polyline { fill: none; stroke-width: 2; }
  .chart .p50 polyline { stroke: #1d6fd1; }
  .chart .p50 circle, .chart .p50 .name { fill: #1d6fd1; }
  .chart .p99 polyline { stroke: #c2410c; }
  .chart .p99 circle, .chart .p99 .name { fill: #c2410c; }
  @media (prefers-color-scheme: dark) {
    .chart text { fill: #9aa6b5; }
    .chart .title, .chart .load { fill: #e6eaf0; }
    .chart .paper { fill: #14181d; }
    .chart .grid { stroke: #2b333d; }
    .chart .p50 polyline { stroke: #6cb0ff; }
    .chart .p50 circle, .chart .p50 .name { fill: #6cb0ff; }
    .chart .p99 polyline { stroke: #ff9d66; }
    .chart .p99 circle, .chart .p99 .name { fill: #ff9d66; }
  }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
  svg {{ width: 100%; height: auto; }}
  .wide {{ overflow-x: auto; }}
  table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }}
  th, td {{ text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #8886; }}
  th:first-child, td:first-child {{ text-align: left; }}
</style>
</head>
<body>
{svg}
<div class="wide"><table>
<thead>{head}</thead>
<tbody>
{body}
</tbody>
</table></div>
{notes}
</body>
</html>
"""


def check(path: Path) -> None:
    """Check before the measurement that a picture can be written to a file.

    Raises:
        ValueError: the file has an unknown suffix, or its directory does not exist.
        ImportError: a PNG needs matplotlib, which is not installed.
    """
    if path.suffix not in _WRITERS:
        raise ValueError(f"{path}: the name must end with one of {', '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: {path.parent} is not a directory")
    if path.suffix == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"{path}: PNG needs an extra: pip install 'onnxserve[cli,plot]'; .svg and .html do not")


def write(path: Path, report: Report) -> None:
    """Write a report's picture to a file that check() has accepted.

    Raises:
        OSError: the file cannot be written.
    """
    _WRITERS[path.suffix](path, report)


def svg(report: Report) -> str:
    """Return the picture as an SVG element, for light and dark."""
    return "\n".join(_Chart(report).lines())


def page(report: Report) -> str:
    """Return a self-contained HTML page with the picture, the table and the notes."""

    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    best = report.best
    notes = [best.headline, *best.batches] if best else []
    return _PAGE.format(
        title=escape(_title(report)),
        svg=svg(report),
        head=row(HEAD, "th"),
        body="\n".join(row(cells(sample), "td") for sample in report.samples),
        notes="\n".join(f"<p>{escape(note)}</p>" for note in [*notes, *cautions(report.samples)]),
    )


def _title(report: Report) -> str:
    rows, info = report.workload.rows, report.info
    each = f"{rows} row{'s' if rows > 1 else ''} a request"
    return f"{info.name} version {info.version}: latency over throughput, {each}"


def _png(path: Path, report: Report) -> None:
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    figure = Figure(figsize=(_WIDTH / 90, _HEIGHT / 90), layout="constrained")
    axes = figure.subplots()
    samples = _measured(report)
    rates = [sample.requests_per_second for sample in samples]
    for name, latency_of, color in (("p50", _p50, "#1d6fd1"), ("p99", _p99, "#c2410c")):
        axes.plot(rates, [latency_of(sample) for sample in samples], marker="o", color=color, label=name)
    for sample, rate in zip(samples, rates, strict=True):
        axes.annotate(str(sample.load), (rate, _p99(sample)), xytext=(0, 6), textcoords="offset points", ha="center")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left=0)
    axes.set(xlabel="requests/s", ylabel="latency, ms", title=_title(report))
    axes.grid(alpha=0.3)
    if samples:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


_WRITERS: dict[str, Callable[[Path, Report], object]] = {
    ".svg": lambda path, report: path.write_text(svg(report), encoding="utf-8"),
    ".html": lambda path, report: path.write_text(page(report), encoding="utf-8"),
    ".png": _png,
}


class _Chart:
    """An SVG: requests/s on the x axis, from 0; milliseconds on the y axis, on a log scale."""

    def __init__(self, report: Report) -> None:
        self._title = _title(report)
        self._samples = _measured(report)
        self._x_ticks = _ticks(max((sample.requests_per_second for sample in self._samples), default=1.0))
        times = [time for sample in self._samples for time in (_p50(sample), _p99(sample))] or [1.0]
        self._y_ticks = _log_ticks(min(times), max(times))

    def lines(self) -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
            f"<title>{escape(self._title)}</title><style>{_STYLE}</style>"
        )
        yield f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>'
        yield f'<text class="title" x="{_LEFT}" y="26">{escape(self._title)}</text>'
        yield from self._grid()
        if self._samples:
            yield from self._series("p50", _p50)
            yield from self._series("p99", _p99)
            yield from self._loads()
        else:
            yield f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">no request was answered</text>'
        yield "</svg>"

    def _grid(self) -> Iterator[str]:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        for rate in self._x_ticks:
            x = self._x(rate)
            yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
            yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{rate:,g}</text>'
        for ms in self._y_ticks:
            y = self._y(ms)
            yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{ms:g}</text>'
        yield f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 14}" text-anchor="middle">requests/s</text>'
        middle = (_TOP + bottom) / 2
        yield f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">latency, ms (log)</text>'

    def _series(self, name: str, latency_of: Callable[[Sample], float]) -> Iterator[str]:
        places = [(self._x(each.requests_per_second), self._y(latency_of(each))) for each in self._samples]
        yield f'<g class="{name}"><polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
        for (x, y), each in zip(places, self._samples, strict=True):
            title = f"{each.load}: {each.requests_per_second:,.0f} requests/s, {name} {latency_of(each):.2f} ms"
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(title)}</title></circle>'
        x, y = places[-1]
        yield f'<text class="name" x="{x + 10:.1f}" y="{y + 4:.1f}">{name}</text></g>'

    def _loads(self) -> Iterator[str]:
        for each in self._samples:
            x, y = self._x(each.requests_per_second), self._y(_p99(each))
            yield f'<text class="load" x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{each.load}</text>'

    def _x(self, rate: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * rate / self._x_ticks[-1]

    def _y(self, ms: float) -> float:
        low, high = math.log(self._y_ticks[0]), math.log(self._y_ticks[-1])
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (math.log(ms) - low) / (high - low)


def _measured(report: Report) -> list[Sample]:
    return [sample for sample in report.samples if sample.latency]


def _p50(sample: Sample) -> float:
    return sample.latency.p50 if sample.latency else math.nan


def _p99(sample: Sample) -> float:
    return sample.latency.p99 if sample.latency else math.nan


def _ticks(highest: float) -> list[float]:
    """Return about five round numbers from 0 on, the last at or above `highest`."""
    unit = 10 ** math.floor(math.log10(highest / 4))
    step = next(unit * times for times in (1, 2, 2.5, 5, 10) if unit * times * 5 >= highest)
    return [step * number for number in range(math.ceil(highest / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, the first below `low` and the last above `high`."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [float(f"{digit}e{exponent}") for exponent in exponents for digit in (1, 2, 5)]
    first = max(number for number, tick in enumerate(ticks) if tick < low)
    last = min(number for number, tick in enumerate(ticks) if tick > high)
    return ticks[first : last + 1]
