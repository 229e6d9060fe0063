"""Queries and their first results for people to look at: contact sheets, matches, and a page of them."""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape

from PIL import Image, ImageDraw, ImageFont, ImageOps

from landmarks.params import Geometric
from landmarks.photos.images import Source, read

TILE = (220, 165)
GAP = 10
FRAME = 5
COLUMNS = 8
TEXT_LINES = 2
FONT_SIZE = 14
LINES = 60
RIGHT, WRONG, QUERY = "#1a9850", "#d73027", "#444444"


@dataclass(frozen=True)
class Tile:
    """A photo of a contact sheet with the lines below it; `right` is None where that is no question."""

    photo: Source
    lines: Sequence[str]
    right: bool | None


def contact_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """The tiles, `COLUMNS` per row, framed green if right, red if wrong and grey if neither."""
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
        photo = ImageOps.pad(_small(tile.photo), TILE, color="#eeeeee")
        sheet.paste(ImageOps.expand(photo, FRAME, colour), (left, top))
        for number, line in enumerate(tile.lines[:TEXT_LINES]):
            below = top + height + 2 * FRAME + 3 + number * (FONT_SIZE + 4)
            draw.text((left, below), _shortened(line, font, width + 2 * FRAME), colour, font)
    return sheet


@lru_cache(512)
def _small(source: Source) -> Image.Image:
    """The photo within a tile; sheet and page show the same ones."""
    photo = read(source, 2 * max(TILE))
    photo.thumbnail(TILE)
    return photo


def match_sheet(query: Source, results: Sequence[Source], options: Geometric) -> Image.Image:
    """The query and each of its results side by side, one row per result, with lines from inlier to inlier.

    If there are more than `LINES` inliers, only every second is drawn, or every third, and so on.
    """
    from landmarks.reranking.geometric import inliers, local_features  # loads OpenCV, which few runs need

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
        for column, (shown, local) in enumerate(((query, of_query), (result, of_result))):
            corner = (GAP + column * (width + GAP), GAP + place * step)
            photo = ImageOps.contain(read(shown), TILE)
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


def page(title: str, facts: Mapping[str, object], sections: Mapping[str, Sequence[Sequence[Tile]]]) -> str:
    """A page in HTML that holds all that it shows: `facts` by name, then the rows of each section.

    The first tile of a row is the query.
    """
    terms = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{_bdi(value)}</dd></div>" for name, value in facts.items()
    )
    body = "".join(
        f"<h2>{escape(heading)}</h2>" + "".join(f"<ol>{''.join(_items(row))}</ol>" for row in rows)
        for heading, rows in sections.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_bdi(title)}</h1>
<dl>{terms}</dl>
<main>{body}</main>
</body>
</html>
"""


_STYLE = """
:root { color-scheme: light dark;
  --back: #fff; --text: #222; --faint: #666; --right: #147a3f; --wrong: #c4281f }
@media (prefers-color-scheme: dark) {
  :root { --back: #181818; --text: #eee; --faint: #aaa; --right: #4cc47c; --wrong: #ff7b70 }
}
body { background: var(--back); color: var(--text); font: 1rem/1.4 system-ui, sans-serif;
  margin: 0 auto; max-width: 90rem; padding: 0 1rem 2rem }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem }
dt, figcaption span { color: var(--faint); font-size: .875rem }
dd { font-size: 1.25rem; margin: 0 }
ol { border-top: 1px solid; display: grid; gap: .75rem; list-style: none; margin: 0; padding: .75rem 0;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)) }
figure { margin: 0 }
img { border: .25rem solid var(--faint); box-sizing: border-box; display: block; width: 100%;
  aspect-ratio: 4 / 3; object-fit: contain }
.right img { border-color: var(--right) }
.wrong img { border-color: var(--wrong) }
figcaption { overflow-wrap: anywhere }
figcaption span { display: block }
.right b { color: var(--right) }
.wrong b { color: var(--wrong) }
"""


def _items(row: Sequence[Tile]) -> Iterator[str]:
    for place, tile in enumerate(row):
        first, *others = tile.lines
        verdict = {None: "", True: "right", False: "wrong"}[tile.right]
        name = f"result {place}" if place else "query"
        below = "".join(f"<span>{_bdi(line)}</span>" for line in others)
        yield (
            f'<li class="{verdict}"><figure><img src="{_data_uri(tile.photo)}" '
            f'alt="{escape(f"{name}: {first}")}" width="{TILE[0]}" height="{TILE[1]}" loading="lazy">'
            f"<figcaption><span>{name} <b>{verdict}</b></span>{_bdi(first)}{below}</figcaption></figure></li>"
        )


def _bdi(text: object) -> str:
    """`text` in HTML; a name that is written from right to left turns nothing around it."""
    return f"<bdi>{escape(str(text))}</bdi>"


def _data_uri(source: Source) -> str:
    content = io.BytesIO()
    _small(source).save(content, "JPEG", quality=80, comment=b"")
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
