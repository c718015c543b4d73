"""The information bar that a camera prints on its photos."""

from __future__ import annotations

from datetime import datetime

from PIL import Image, ImageDraw, ImageFont

from .places import Location

BAR_SHARE = 0.045  # of the photo's height
NEW_MOON = datetime(2000, 1, 6, 18, 14)
MONTH = 29.530588  # days from new moon to new moon


def moon_phase(when: datetime) -> float:
    """0 new, 0.5 full, up to 1."""
    return ((when - NEW_MOON).total_seconds() / 86400 / MONTH) % 1.0


def bar_text(location: Location, when: datetime, temperature: int) -> list[str]:
    """The bar's fields in the order of the maker."""
    fahrenheit = round(temperature * 9 / 5 + 32)
    if location.make == "KEADON":
        return [location.make, f"{temperature}°C {fahrenheit}°F", f"{when:%d/%m/%Y  %H:%M:%S}", location.name]
    if location.make == "TRAILMARK":
        return [f"{when:%Y-%m-%d %H:%M:%S}", f"{fahrenheit}°F  {temperature}°C", location.name, location.model]
    return [f"{when:%d %b %Y}", f"{when:%I:%M:%S %p}", f"{temperature}°C", location.name, location.make]


def _moon(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, phase: float, light, dark) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=dark, outline=light)
    lit = abs(2 * phase - 1)  # 1 new, 0 full
    steps = int(2 * r)
    for i in range(steps):
        dy = -r + (i + 0.5) * 2 * r / steps
        half = max(r * r - dy * dy, 0) ** 0.5
        edge = half * (2 * lit - 1)
        ends = (edge, half) if phase < 0.5 else (-half, -edge)
        draw.line((x + ends[0], y + dy, x + ends[1], y + dy), fill=light)


def draw_bar(image: Image.Image, location: Location, when: datetime, temperature: int) -> None:
    """Prints the bar of the location's camera onto the photo."""
    width, height = image.size
    strip = round(BAR_SHARE * height)
    top = 0 if location.bar == "above" else height - strip
    draw = ImageDraw.Draw(image)
    paper, ink = ((0, 0, 0), (245, 245, 245)) if location.make != "TRAILMARK" else ((238, 238, 232), (16, 16, 20))
    if location.bar == "over":
        ink, paper = (250, 250, 250), (30, 30, 30)
    else:
        draw.rectangle((0, top, width, top + strip), fill=paper)
    font = ImageFont.load_default(size=max(8, round(strip * 0.62)))
    fields = bar_text(location, when, temperature)
    middle = top + strip / 2
    _moon(draw, strip * 0.7, middle, strip * 0.32, moon_phase(when), ink, paper)
    usable = width - 1.4 * strip
    for i, text in enumerate(fields):
        x = 1.4 * strip + usable * (i + 0.5) / len(fields)
        stroke = 1 if location.bar == "over" else 0
        draw.text((x, middle), text, ink, font, anchor="mm", stroke_width=stroke, stroke_fill=paper)
