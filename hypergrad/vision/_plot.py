"""What the pictures of runs share: colours, figures without pyplot, bytes that repeat, numbers out of records."""

import contextlib
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypergrad.errors import InvalidInputError
from hypergrad.files import Field, Pathlike
from hypergrad.optional import require

#: A figure and axes of matplotlib; not named by their types, because matplotlib is optional.
Figure = Any
Axes = Any

#: Of lines on white: Okabe and Ito's colours without the yellow, told apart by everyone.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
#: Of areas that touch, in this order. Found by a search for the largest smallest CIE76 distance between any two, as
#: seen with full colour vision and, by the model of Machado et al. (2009), without one of the three kinds of cones:
#: above 20; of neighbours, above 45.
AREAS = (
    "#d23c0f", "#b496ff", "#00f0b4", "#1e69f0", "#b47896", "#2d1e96", "#780f00",
    "#a5f078", "#69694b", "#ff961e", "#4b2d3c", "#ffc3ff", "#4bb45a", "#962d87",
)  # fmt: skip
#: What a file needs, beside the picture, to be the same bytes every time.
_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_PURPOSE = "Drawing a run"
_EXTRA = "vision"
_DPI = 150


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Matplotlib's own style, whatever the user's is; everything is drawn and encoded inside.

    Raises:
        MissingLibraryError: matplotlib cannot be imported.
    """
    matplotlib, style = (require(name, _PURPOSE, _EXTRA) for name in ("matplotlib", "matplotlib.style"))
    with style.context("default"), matplotlib.rc_context({"svg.hashsalt": "hypergrad"}):  # else SVG has random names
        yield


def new_figure(width: float, height: float) -> Figure:
    """A white page, in inches, that pyplot does not know of."""
    figures = require("matplotlib.figure", _PURPOSE, _EXTRA)
    agg = require("matplotlib.backends.backend_agg", _PURPOSE, _EXTRA)
    figure = figures.Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    agg.FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in inches from the upper left corner of the page."""
    page_width, page_height = figure.get_size_inches()
    lower = page_height - top - height
    return figure.add_axes((left / page_width, lower / page_height, width / page_width, height / page_height))


def add_title(figure: Figure, title: str, subtitle: str, left: float) -> None:
    """The page's title and a line below it, ``left`` inches from the edge; they take 0.8 inches."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - 0.32 / height, title, size=13, weight="bold", va="center")
    figure.text(left / width, 1 - 0.58 / height, subtitle, size=9, color="0.3", va="center")


def encode(figure: Figure, suffix: str) -> bytes:
    """The file's content; the same figure gives the same bytes."""
    content = io.BytesIO()
    figure.savefig(content, format=suffix[1:], metadata=_METADATA[suffix])
    return content.getvalue()


def check_suffix(path: Pathlike) -> str:
    """The suffix in lower case.

    Raises:
        InvalidInputError: none that can be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _METADATA:
        raise InvalidInputError(
            f"A picture is written as {', '.join(_METADATA)}, by the path's suffix; got {str(path)!r}."
        )
    return suffix


def whole_numbers(axis: Any, most: int = 10) -> None:
    """Ticks of an axis at integers only, so many of them at most."""
    ticker = require("matplotlib.ticker", _PURPOSE, _EXTRA)
    axis.set_major_locator(ticker.MaxNLocator(most, integer=True, min_n_ticks=1))


def log_scale(axes: Axes, low: float, high: float) -> None:
    """A logarithmic vertical axis for values from ``low`` to ``high``, both positive.

    It shows a decade at least, so that small changes look small.
    """
    ticker = require("matplotlib.ticker", _PURPOSE, _EXTRA)
    middle, half = math.sqrt(low) * math.sqrt(high), max(1.1 * math.log10(high / low), 1.0) / 2
    axes.set_yscale("log")
    axes.set_ylim(middle / 10**half, middle * 10**half)
    if half < 1.5:
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def boundaries(centres: Sequence[float]) -> list[float]:
    """Where the cells around increasing centres begin and end: half-way, and as far on both outer sides.

    A single centre has a cell of width 1.
    """
    if len(centres) == 1:
        return [centres[0] - 0.5, centres[0] + 0.5]
    inner = [(a + b) / 2 for a, b in itertools.pairwise(centres)]
    return [2 * centres[0] - inner[0], *inner, 2 * centres[-1] - inner[-1]]


def numbers(path: Path, kind: str, records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """One field of every record of a run's metrics; what was not finite is null there, and NaN here.

    Args:
        path: of the run.
        kind: of the records, for messages.
        records: from :func:`hypergrad.vision.run.read_run`.
        name: of the field.

    Raises:
        InvalidInputError: a record lacks the field, or has something else there; the message says which.
    """
    fields = _fields(path, kind, records, name)
    return [math.nan if field.value is None else field.number() for field in fields]


def counts(path: Path, kind: str, records: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    """As :func:`numbers`, of a field that holds integers from 0 on and is never null."""
    return [field.integer(0) for field in _fields(path, kind, records, name)]


def _fields(path: Path, kind: str, records: Sequence[Mapping[str, Any]], name: str) -> list[Field]:
    file = str(path / "metrics.jsonl")
    return [Field(file, f"{kind} record {i}", record).member(name) for i, record in enumerate(records, 1)]
