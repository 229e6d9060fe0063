"""Contact sheets: a query and its first results in a row, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from landmarks.images import Source, read

TILE = (220, 165)
GAP = 10
FRAME = 5
TEXT_LINES = 2
FONT_SIZE = 14
RIGHT, WRONG, QUERY = "#1a9850", "#d73027", "#444444"


@dataclass(frozen=True)
class Tile:
    """A photo of a contact sheet with the lines below it.

    `right` is None for the query, and for a result that does not count.
    """

    photo: Source
    lines: Sequence[str]
    right: bool | None


def contact_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """The tiles in a row, framed green where right, red where wrong and grey where neither."""
    font = ImageFont.load_default(FONT_SIZE)
    width, height = TILE
    step = width + 2 * FRAME + GAP
    text_height = TEXT_LINES * (FONT_SIZE + 4)
    sheet = Image.new("RGB", (GAP + step * len(tiles), height + 2 * FRAME + 2 * GAP + text_height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, tile in enumerate(tiles):
        left = GAP + place * step
        colour = QUERY if tile.right is None else RIGHT if tile.right else WRONG
        photo = ImageOps.pad(read(tile.photo), TILE, color="#eeeeee")
        sheet.paste(ImageOps.expand(photo, FRAME, colour), (left, GAP))
        for number, line in enumerate(tile.lines[:TEXT_LINES]):
            top = GAP + height + 2 * FRAME + 3 + number * (FONT_SIZE + 4)
            draw.text((left, top), _shortened(line, font, width + 2 * FRAME), colour, font)
    return sheet


def _shortened(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
