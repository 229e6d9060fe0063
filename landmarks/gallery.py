"""Contact sheets: a query and its first results, for people to look at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from landmarks.images import read

TILE = (220, 165)
GAP = 10
FRAME = 5
COLUMNS = 8
TEXT_LINES = 2
FONT_SIZE = 14
RIGHT, WRONG, QUERY = "#1a9850", "#d73027", "#444444"


@dataclass(frozen=True)
class Tile:
    """A photo of a contact sheet with the lines below it; `right` is None where that is no question."""

    path: Path
    lines: Sequence[str]
    right: bool | None


def contact_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """The tiles, `COLUMNS` a row, framed green where right, red where wrong and grey where neither."""
    font = ImageFont.load_default(FONT_SIZE)
    width, height = TILE
    step = width + 2 * FRAME + GAP
    row_height = height + 2 * FRAME + GAP + TEXT_LINES * (FONT_SIZE + 4)
    columns = min(len(tiles), COLUMNS)
    rows = math.ceil(len(tiles) / COLUMNS)
    sheet = Image.new("RGB", (GAP + step * columns, GAP + row_height * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for place, tile in enumerate(tiles):
        left, top = GAP + place % COLUMNS * step, GAP + place // COLUMNS * row_height
        colour = QUERY if tile.right is None else RIGHT if tile.right else WRONG
        photo = ImageOps.pad(read(tile.path), TILE, color="#eeeeee")
        sheet.paste(ImageOps.expand(photo, FRAME, colour), (left, top))
        for number, line in enumerate(tile.lines[:TEXT_LINES]):
            below = top + height + 2 * FRAME + 3 + number * (FONT_SIZE + 4)
            draw.text((left, below), _shortened(line, font, width + 2 * FRAME), colour, font)
    return sheet


def _shortened(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
