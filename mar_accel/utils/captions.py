"""Grids of images with a caption below each one."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from mar_accel.utils.figures import picture_font

# Pixels of the text.
TEXT_SIZE = 16
# Captions that need more are cut.
MAX_LINES = 5
# Captions move the images apart up to this width; longer ones take several lines.
MAX_WIDTH = 200
# More characters never fit.
MAX_CHARACTERS = MAX_LINES * MAX_WIDTH
_GAP = 6


def captions_below(tiles: Sequence[Image.Image], captions: Sequence[str], columns: int = 8) -> Image.Image:
    """Arrange images of equal size in rows, with a caption below each image."""
    widest = max(_font_length(caption) for caption in captions)
    width = max(tiles[0].width, min(widest, MAX_WIDTH), 1)
    texts = [wrapped(caption, width) for caption in captions]
    text = TEXT_SIZE * (1 + max(len(lines) for lines in texts))
    height, rows = tiles[0].height, -(-len(tiles) // columns)
    size = (min(columns, len(tiles)) * (width + _GAP), rows * (height + text + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), picture_font(TEXT_SIZE)
    for number, (tile, lines) in enumerate(zip(tiles, texts, strict=True)):
        row, column = divmod(number, columns)
        x, y = column * (width + _GAP) + _GAP // 2, row * (height + text + _GAP) + _GAP // 2
        sheet.paste(tile, (x + (width - tile.width) // 2, y))
        for place, line in enumerate(lines):
            centre = (x + width // 2, y + height + TEXT_SIZE * (place + 1))
            draw.text(centre, line, fill="black", font=font, anchor="mm")
    return sheet


def wrapped(caption: str, width: int) -> list[str]:
    """A caption in at most MAX_LINES lines of at most ``width`` pixels; "…" marks that it is cut."""
    lines = [""]
    for word in _printable(caption[:MAX_CHARACTERS]).split():
        longer = f"{lines[-1]} {word}".strip()
        if _font_length(longer) <= width:
            lines[-1] = longer
            continue
        if len(lines) == MAX_LINES and lines[-1]:
            lines[-1] += "…"
            break
        # A word that is too long for a line is cut.
        lines += [_fitting(word, width)] if lines[-1] else []
        lines[-1] = lines[-1] or _fitting(word, width)
    return lines


def _fitting(word: str, width: int) -> str:
    """The word, or as much of it as fits."""
    if _font_length(word[:width]) <= width and len(word) <= width:
        return word
    count = next((n for n in range(1, width) if _font_length(word[: n + 1] + "…") > width), 1)
    return word[:count] + "…"


def _font_length(text: str) -> int:
    # Only the beginning matters, because a prompt can be very long.
    return round(picture_font(TEXT_SIZE).getlength(_printable(text[: 2 * MAX_WIDTH])))


def _printable(text: str) -> str:
    """The text with spaces in place of line breaks and control characters, which fonts cannot measure."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
