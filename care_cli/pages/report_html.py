"""The report's page as HTML: strings and pictures in, one self-contained file out. Nothing loads from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from care_cli.pages.gallery_html import text

MARK = '<meta name="generator" content="CARE report">'

STYLE = """
:root{color-scheme:light;--paper:#f6f7f4;--card:#fff;--ink:#1c2420;--faint:#5d6862;--line:#dfe4df;
--right:#1f8a55;--wrong:#b3381b;--hole:#e9ede9;--warn:#8a5a00;--soft:#fff6e0}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer{max-width:1180px;margin:0 auto;padding:0 20px}
header{padding-top:28px}h1{font-size:26px;margin:0 0 2px;letter-spacing:-.01em}
h2{font-size:19px;margin:0 0 6px}h3{font-size:15px;margin:18px 0 6px}
p{margin:0 0 10px;max-width:78ch;overflow-wrap:anywhere}header p,small,footer{color:var(--faint)}
nav{display:flex;flex-wrap:wrap;gap:6px 8px;margin:12px 0 18px}
nav a{padding:3px 12px;border-radius:99px;border:1px solid var(--line);background:var(--card);color:var(--ink);
text-decoration:none;font-size:13.5px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:0 0 18px;
overflow-x:auto}
p.lead{font-size:17px}
p.warn{background:var(--soft);border-left:3px solid var(--warn);padding:6px 12px;border-radius:4px}
table{border-collapse:collapse;margin:6px 0 12px;font-size:14px;font-variant-numeric:tabular-nums}
td,th{padding:5px 12px 5px 0;text-align:right;vertical-align:top;border-bottom:1px solid var(--line);white-space:nowrap}
td:first-child,th:first-child,.words{text-align:left}
td.words{white-space:normal;min-width:14ch;max-width:46ch;
overflow-wrap:anywhere}
th{font-weight:600;color:var(--faint);font-size:12.5px}td small{display:block;font-size:12px}
tr.best td{font-weight:600}tr.paper td{color:var(--faint)}
ul{margin:0 0 10px;padding-left:20px;max-width:88ch}li{overflow-wrap:anywhere}
figure{margin:8px 0 14px}figure img{display:block;max-width:100%;height:auto}
figure.narrow img{max-width:min(100%,640px)}
figcaption{color:var(--faint);font-size:13.5px;max-width:88ch;margin-top:4px}
.query{border-top:1px solid var(--line);padding:14px 0 6px}
.query p{margin:0 0 8px}
.crops{display:flex;gap:10px;flex-wrap:wrap;align-items:flex-start}
.crop{width:134px;font-size:12.5px;line-height:1.35;overflow-wrap:anywhere}
.crop img,.crop .none{display:block;width:134px;height:134px;object-fit:contain;background:var(--hole);
border-radius:6px;border:4px solid var(--line)}
.crop .none{padding:50px 10px;text-align:center;color:var(--faint)}
.crop.right img{border-color:var(--right)}.crop.wrong img{border-color:var(--wrong)}
.crop.asked img{border-color:var(--ink)}
.crop b{display:block;margin-top:4px}.crop.right b{color:var(--right)}.crop.wrong b{color:var(--wrong)}
.crop small{display:block}
.crops .gap{align-self:center;color:var(--faint);font-size:20px}
details{margin:0 0 8px}summary{cursor:pointer;color:var(--faint)}
footer{padding-top:4px;padding-bottom:28px;font-size:13px}
@media print{section{break-inside:avoid}nav{display:none}}
"""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it says, and a second line below it."""

    value: object
    below: str = ""
    words: bool = False  # text that may go over several lines


@dataclass(frozen=True)
class ShownCrop:
    """A crop as evidence: the query, or an answer to it."""

    jpeg: bytes | None
    kind: str  # asked | right | wrong
    heading: str  # what it is: "asked", "1st answer", ...
    individual: str
    facts: Sequence[str] = ()  # similarity, event, place, ...


@dataclass(frozen=True)
class ShownQuery:
    """A query, its first answers, and the first right one where it is not among them."""

    why: str  # in words
    asked: ShownCrop
    answers: Sequence[ShownCrop]
    match: ShownCrop | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, the word for it in the list of contents, and HTML made by the functions below."""

    name: str
    heading: str
    body: str


def page(title: str, subtitle: str, sections: Sequence[Section], foot: str) -> str:
    """The whole page."""
    links = "".join(f'<a href="#s{number}">{text(one.name)}</a>' for number, one in enumerate(sections))
    parts = "".join(
        f'<section id="s{number}"><h2>{text(one.heading)}</h2>\n{one.body}</section>\n'
        for number, one in enumerate(sections)
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<header><h1>{text(title)}</h1><p>{text(subtitle)}</p><nav>{links}</nav></header>\n"
        f"<main>\n{parts}</main>\n<footer><p>{text(foot)}</p></footer></body></html>\n"
    )


def paragraph(words: str, kind: str = "") -> str:
    """Words; `kind` lead (large) or warn."""
    return f'<p class="{kind}">{text(words)}</p>\n' if kind else f"<p>{text(words)}</p>\n"


def heading(words: str) -> str:
    """A smaller heading within a section."""
    return f"<h3>{text(words)}</h3>\n"


def listing(items: Sequence[str]) -> str:
    """Items below each other; nothing without any."""
    return f"<ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>\n" if items else ""


def links(items: Mapping[str, str]) -> str:
    """Words that lead to files beside the page, a line each."""
    lines = [f'<li><a href="{text(file)}">{text(words)}</a></li>' for words, file in items.items()]
    return f"<ul>{''.join(lines)}</ul>\n"


def table(columns: Mapping[str, str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """A table. `columns` are headings with what each means (shown where the mouse rests); a row has a class."""
    first = rows[0][1] if rows else ()
    head = "".join(
        f'<th title="{text(meaning)}"{_words(place < len(first) and first[place].words)}>{text(name)}</th>'
        for place, (name, meaning) in enumerate(columns.items())
    )
    body = "".join(
        f'<tr class="{text(kind)}">{"".join(map(_cell, cells))}</tr>\n'
        if kind
        else f"<tr>{''.join(map(_cell, cells))}</tr>\n"
        for kind, cells in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>\n"


def _cell(cell: Cell) -> str:
    below = f"<small>{text(cell.below)}</small>" if cell.below else ""
    return f"<td{_words(cell.words)}>{text(cell.value)}{below}</td>"


def _words(are: bool) -> str:
    return ' class="words"' if are else ""


def figure(picture: bytes, alt: str, caption: str, narrow: bool = False) -> str:
    """A PNG or JPEG with what it shows, in words for who cannot see it, and how it is to be read."""
    kind = ' class="narrow"' if narrow else ""
    image = f'<img src="{_data(picture)}" alt="{text(alt)}">'
    return f"<figure{kind}>{image}<figcaption>{text(caption)}</figcaption></figure>\n"


def query(shown: ShownQuery) -> str:
    """A query beside its answers."""
    crops = [_crop(shown.asked), '<span class="gap">→</span>', *map(_crop, shown.answers)]
    if shown.match is not None:
        crops += ['<span class="gap">…</span>', _crop(shown.match)]
    return f'<div class="query"><p>{text(shown.why)}</p><div class="crops">{"".join(crops)}</div></div>\n'


def folded(words: str, body: str) -> str:
    """A part that opens when its words are clicked."""
    return f"<details><summary>{text(words)}</summary>{body}</details>\n"


def _crop(one: ShownCrop) -> str:
    if one.jpeg is None:
        picture = '<div class="none">no picture</div>'
    else:
        picture = f'<img src="{_data(one.jpeg)}" alt="{text(one.individual)}" loading="lazy" decoding="async">'
    facts = "".join(f"<small>{text(fact)}</small>" for fact in one.facts)
    heading = f"<small>{text(one.heading)}</small>"
    return f'<div class="crop {text(one.kind)}">{picture}<b>{text(one.individual)}</b>{heading}{facts}</div>'


def _data(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
