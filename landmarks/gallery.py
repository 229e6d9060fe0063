"""Contact sheets: a query and its first results in a row, or what matches in them, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from landmarks.images import read
from landmarks.params import Geometric

TILE = (220, 165)
GAP = 10
FRAME = 5
TEXT_LINES = 2
FONT_SIZE = 14
LINES = 60
RIGHT, WRONG, QUERY = "#1a9850", "#d73027", "#444444"


@dataclass(frozen=True)
class Tile:
    """A photo of a contact sheet with the lines below it; `right` is None for the query."""

    path: Path
    lines: Sequence[str]
    right: bool | None


def contact_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """The tiles in a row, framed green where right, red where wrong and grey for the query."""
    font = ImageFont.load_default(FONT_SIZE)
    width, height = TILE
    step = width + 2 * FRAME + GAP
    text_height = TEXT_LINES * (FONT_SIZE + 4)
    sheet = Image.new("RGB", (GAP + step * len(tiles), height + 2 * FRAME + 2 * GAP + text_height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, tile in enumerate(tiles):
        left = GAP + place * step
        colour = QUERY if tile.right is None else RIGHT if tile.right else WRONG
        photo = ImageOps.pad(read(tile.path), TILE, color="#eeeeee")
        sheet.paste(ImageOps.expand(photo, FRAME, colour), (left, GAP))
        for number, line in enumerate(tile.lines[:TEXT_LINES]):
            top = GAP + height + 2 * FRAME + 3 + number * (FONT_SIZE + 4)
            draw.text((left, top), _shortened(line, font, width + 2 * FRAME), colour, font)
    return sheet


def match_sheet(query: Path, results: Sequence[Path], options: Geometric) -> Image.Image:
    """The query and each of its results side by side, a row a result, with lines from inlier to inlier.

    Of more than `LINES` inliers every second is drawn, every third, and so on.
    """
    from landmarks.rerankers.geometric import inliers, local_features  # loads OpenCV, which few runs need

    font = ImageFont.load_default(FONT_SIZE)
    width, height = TILE
    step = height + FONT_SIZE + 2 * GAP
    sheet = Image.new("RGB", (2 * width + 3 * GAP, GAP + step * len(results)), "white")
    draw = ImageDraw.Draw(sheet)
    of_query = local_features(query, options)
    for place, result in enumerate(results):
        of_result = local_features(result, options)
        pairs = inliers(of_query, of_result, options)
        drawn = pairs[:: -(-len(pairs) // LINES) or 1]
        ends = []
        for column, (path, local) in enumerate(((query, of_query), (result, of_result))):
            corner = (GAP + column * (width + GAP), GAP + place * step)
            photo = ImageOps.contain(read(path), TILE)
            sheet.paste(photo, corner)
            ends.append(local.points[drawn[:, column]] * (photo.width / local.size[0]) + corner)
        for start, end in zip(*ends, strict=True):
            draw.line([*start, *end], RIGHT)
        draw.text((GAP, GAP + place * step + height), f"{len(pairs)} inliers", QUERY, font)
    return sheet


def _shortened(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
