"""The gallery's pages as HTML: one string in, one self-contained file out. Nothing loads from anywhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

HIDDEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]"
)  # control signs, and those that turn text about
MARK = '<meta name="generator" content="CARE gallery">'

FILTERS = (("all", "All"), ("animal", "Animals"), ("person", "People"), ("vehicle", "Vehicles"), ("empty", "Empty"),
           ("unreadable", "Unreadable"))  # fmt: skip

STYLE = """
:root{color-scheme:light dark;--paper:#f6f7f4;--card:#fff;--ink:#1c2420;--faint:#66716b;--line:#dfe4df;
--animal:#1f8a55;--person:#c2410c;--vehicle:#7c3aed;--warn:#9a6700;--hole:#e9ede9}
@media(prefers-color-scheme:dark){:root{--paper:#121614;--card:#1b211e;--ink:#e8eeea;--faint:#93a099;--line:#2b342f;
--animal:#45c486;--person:#fb923c;--vehicle:#a78bfa;--warn:#e3b341;--hole:#242c28}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer{max-width:1700px;margin:0 auto;padding:0 20px}
header{padding-top:24px}h1{font-size:24px;margin:0 0 2px;letter-spacing:-.01em}p{margin:0 0 12px;color:var(--faint)}
nav{display:flex;flex-wrap:wrap;gap:8px;align-items:center;margin:12px 0 18px}nav .space{flex:1}
button,nav a,nav b{font:inherit;padding:5px 13px;border-radius:99px;border:1px solid var(--line);background:var(--card);
color:var(--ink);text-decoration:none;cursor:pointer}nav b{border-color:transparent;background:none;font-weight:500;
cursor:default}button[aria-pressed=true]{background:var(--ink);color:var(--paper);border-color:var(--ink)}
button small{opacity:.65;margin-left:3px}
main{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));align-items:start}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden;
content-visibility:auto;contain-intrinsic-size:auto 340px}
figure.big{grid-column:1/-1;max-width:1100px;content-visibility:visible}
.photo{position:relative;cursor:zoom-in;background:var(--hole)}.big .photo{cursor:zoom-out}
.photo img{display:block;width:100%;height:auto}
.photo i{position:absolute;border:2px solid var(--c);border-radius:2px;box-shadow:0 0 0 1px #0006;pointer-events:none}
.photo i span{position:absolute;left:-2px;top:-2px;font:600 11px/1 system-ui,sans-serif;
padding:3px 5px;background:var(--c);color:#fff;white-space:nowrap;border-radius:2px 0 4px 0}
.animal{--c:var(--animal)}.person{--c:var(--person)}.vehicle{--c:var(--vehicle)}
@media(prefers-color-scheme:dark){.photo i span{color:#10140f}}
.none{padding:44px 16px;text-align:center;color:var(--faint)}
figcaption{padding:10px 13px 12px}
figcaption strong{display:block;font-weight:600;overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}.big strong{white-space:normal;overflow-wrap:anywhere}
figcaption div{color:var(--faint);font-size:13px}
ul{list-style:none;margin:7px 0 0;padding:0;display:flex;flex-wrap:wrap;gap:5px}
li{font-size:12.5px;padding:2px 9px;border-radius:99px;border:1px solid var(--line);
border-color:color-mix(in srgb,var(--c,var(--line)) 45%,transparent)}
li::before{content:"";display:inline-block;width:7px;height:7px;border-radius:9px;background:var(--c);margin-right:6px}
.warn{color:var(--warn)!important}
details{margin:0 0 16px;border:1px solid var(--line);border-radius:10px;background:var(--card);padding:9px 14px}
summary{cursor:pointer}details ol{margin:8px 0 4px;padding-left:24px;font-size:13.5px;overflow-wrap:anywhere}
details ol span{color:var(--faint)}
footer{padding-top:8px;padding-bottom:28px;color:var(--faint);font-size:13px}
""" + "".join(f"body[data-show={name}] figure:not(.{name}){{display:none}}" for name, _ in FILTERS[1:])

SCRIPT = """
const buttons=[...document.querySelectorAll('button')];
buttons.forEach(b=>b.addEventListener('click',()=>{document.body.dataset.show=b.value;
buttons.forEach(o=>o.setAttribute('aria-pressed',o===b))}));
document.querySelectorAll('.photo').forEach(p=>p.addEventListener('click',()=>p.parentElement.classList.toggle('big')));
"""


def card(row: dict, boxes: Sequence[dict], jpeg: bytes | None, note: str | None) -> str:
    """One photo. `row` as `Catalog.image_rows`, `boxes` as `Catalog.crop_rows`; `note` says what is unusual."""
    shown = [f"{row[name + 's']} {name}" for name in ("animal", "person", "vehicle") if row[name + "s"]]
    kinds = " ".join(kinds_of(row))
    if jpeg is None:
        picture = f'<div class="none">{text(note or "no picture")}</div>'
    else:
        data = base64.b64encode(jpeg).decode("ascii")
        frames = "".join(_frame(box, row["width"] or 1, row["height"] or 1) for box in boxes)
        picture = (
            f'<div class="photo"><img src="data:image/jpeg;base64,{data}" alt="{text(", ".join(shown) or "empty")}" '
            f'loading="lazy" decoding="async">{frames}</div>'
        )
    name = (row["path"] or f"photo {row['image']}").rpartition("/")[2]
    facts = [row["taken_at"] or "undated", row["deployment"], row["site"]]
    facts += ["infrared" if row["lighting"] == "infrared" else None]
    facts += [None if row["temperature_c"] is None else f"{row['temperature_c']:g} °C"]
    chips = "".join(f'<li class="{box["category"]}">{text(_said(box))}</li>' for box in boxes)
    warning = f'<div class="warn">{text(note)}</div>' if note and jpeg is not None else ""
    return (
        f'<figure class="{kinds}">{picture}<figcaption><strong title="{text(row["path"] or name)}">{text(name)}'
        f"</strong><div>{text(' · '.join(fact for fact in facts if fact))}</div>{warning}"
        f"{f'<ul>{chips}</ul>' if chips else ''}</figcaption></figure>\n"
    )


def kinds_of(row: dict) -> list[str]:
    """The filters that a photo passes: animal, person, vehicle; else empty; or unreadable."""
    if row["state"] == "unreadable":
        return ["unreadable"]
    return [name for name in ("animal", "person", "vehicle") if row[name + "s"]] or ["empty"]


def page(
    title: str, subtitle: str, cards: Sequence[str], counts: dict[str, int], *, number: int, before: str | None,
    after: str | None, unread: Sequence[tuple[str, str]], foot: str
) -> str:  # fmt: skip
    """A whole page. `counts` are of this page, by filter; `unread` are (file, reason), shown above the photos."""
    buttons = "".join(
        f'<button value="{name}" aria-pressed="{"true" if name == "all" else "false"}">{label}'
        f"<small>{counts.get(name, 0)}</small></button>"
        for name, label in FILTERS
        if name == "all" or counts.get(name)
    )
    links = _links(number, before, after)
    listing = ""
    if unread:
        items = "".join(f"<li>{text(file)} <span>{text(reason)}</span></li>" for file, reason in unread)
        files = "1 file" if len(unread) == 1 else f"{len(unread)} files"
        listing = f'<details open><summary class="warn">{files} could not be read</summary><ol>{items}</ol></details>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<header><h1>{text(title)}</h1><p>{text(subtitle)}</p><nav>{buttons}<span class=space></span>{links}</nav>"
        f"{listing}</header>\n<main>\n{''.join(cards)}</main>\n"
        f"<footer><nav><span class=space></span>{links}</nav>{text(foot)}</footer>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _links(number: int, before: str | None, after: str | None) -> str:
    if not before and not after:
        return ""
    back = f'<a rel="prev" href="{quote(before)}">← Previous</a>' if before else ""
    on = f'<a rel="next" href="{quote(after)}">Next →</a>' if after else ""
    return f"{back}<b>Page {number}</b>{on}"


def _frame(box: dict, width: int, height: int) -> str:
    shares = box["x"] / width, box["y"] / height, box["w"] / width, box["h"] / height
    left, top, wide, high = (f"{100 * share:.2f}%" for share in shares)
    label = f"<span>{text(box['individual'])}</span>" if box["individual"] else ""
    return f'<i class="{box["category"]}" style="left:{left};top:{top};width:{wide};height:{high}">{label}</i>'


def _said(box: dict) -> str:
    """What is known of a box: name, species or category, confidence."""
    kind = box["species"] or box["category"]
    return f"{box['individual'] + ', ' if box['individual'] else ''}{kind} {box['confidence']:.2f}"


def text(value: object) -> str:
    """Any value as text of a page: escaped, what can't be seen or turns text about shown as its code."""
    return escape(HIDDEN.sub(lambda sign: repr(sign[0])[1:-1], str(value)), quote=True)
