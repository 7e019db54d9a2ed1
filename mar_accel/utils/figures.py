"""The look of all figures: sizes of a paper, readable fonts, colours for colour-blind readers too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageFont

from mar_accel.errors import ConfigError
from mar_accel.utils.whole_files import written_whole

# Okabe and Ito's palette ("Color Universal Design", 2008) without its yellow, which is too pale for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# A sequential map that is even in lightness, so that it survives grey print.
SEQUENTIAL = "viridis"
# Width in inches of one column and of the text of a two-column paper.
COLUMN, TEXT = 3.4, 6.9
_DPI = 220
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    # Without these two, the same numbers would give another file.
    "svg.hashsalt": "mar_accel",
    "savefig.dpi": _DPI,
}


def check_matplotlib() -> None:
    """Raise ConfigError if matplotlib is missing, before a long run starts."""
    if not has_matplotlib():
        raise ConfigError("the figures need matplotlib; run pip install -e '.[eval]' in the checkout.")


def has_matplotlib() -> bool:
    """Whether figures can be drawn."""
    return find_spec("matplotlib") is not None


def save_figure(path: Path, width: float, height: float, draw: Callable[[Any], None]) -> list[Path]:
    """Draw a figure in the common look, and write it as PNG and as SVG.

    Args:
        path: the PNG file; the SVG file lies beside it.
        width, height: size in inches; see ``COLUMN`` and ``TEXT``.
        draw: draws into the figure that it gets.

    Returns:
        The two files.

    Example:
        >>> save_figure(Path("fid.png"), COLUMN, 2.5, lambda figure: figure.subplots().plot([1, 2]))
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    with matplotlib.rc_context(_STYLE | {"axes.prop_cycle": cycler(color=PALETTE)}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        for file in files:
            metadata = {"Date": None} if file.suffix == ".svg" else {}
            with written_whole(file) as temporary:
                figure.savefig(temporary, format=file.suffix[1:], metadata=metadata)
    return files


def remove_figure(path: Path) -> None:
    """Remove both files of a figure, if they exist."""
    for suffix in (".png", ".svg"):
        path.with_suffix(suffix).unlink(missing_ok=True)


@cache
def picture_font(size: int) -> Any:
    """A scalable font for text in pictures of images.

    It is DejaVu Sans where matplotlib is installed, which has all signs of our names, such as β and ≥.
    Pillow's own font has Latin letters only.
    """
    found = find_spec("matplotlib")
    if found is not None and found.origin is not None:
        file = Path(found.origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)
