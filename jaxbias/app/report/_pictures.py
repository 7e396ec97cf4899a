"""Learning curves as SVG, weights as pixel pictures, biases as bars."""

import base64
import io
import math
import re
from collections.abc import Sequence

import numpy as np


def curves(series: Sequence[tuple[str, np.ndarray, str]], *, title: str, low: float, high: float, log: bool) -> str:
    """A line chart over epochs.

    Args:
        series: (name, one value per epoch, CSS classes) of each line.
        low, high: of the vertical axis; what lies outside is not drawn.
        log: logarithmic vertical axis.
    """
    width, height, left, right, top, bottom = 560, 300, 52, 12, 12, 34
    epochs = max(len(values) for _, values, _ in series)
    scale = math.log10 if log else float

    def x_of(epoch):
        return left + (width - left - right) * (epoch - 1) / max(epochs - 1, 1)

    def y_of(value):
        share = (scale(value) - scale(low)) / (scale(high) - scale(low))
        return height - bottom - (height - top - bottom) * share

    ticks = _log_ticks(low, high) if log else _ticks(low, high, 6)
    parts = []
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in sorted({1, *(t for t in _ticks(0.0, float(epochs), 5) if t >= 1 and t == int(t))}):
        parts.append(
            f'<text class="tick" x="{x_of(tick):.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick:g}</text>'
        )
    parts.append(f'<text class="tick" x="{width - right}" y="{height - 2}" text-anchor="end">epoch</text>')
    for name, values, classes in series:
        points = " ".join(
            f"{x_of(i + 1):.1f},{y_of(float(v)):.1f}"
            for i, v in enumerate(values)
            if np.isfinite(v) and (v > 0 or not log)
        )
        parts.append(f'<polyline class="line {classes}" points="{points}"><title>{name}</title></polyline>')
    return (
        f'<figure><figcaption>{title}</figcaption><svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg></figure>'
    )


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between low and high."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [10.0**p for p in powers if low <= 10.0**p * 1.0001 and 10.0**p <= high * 1.0001]


_THEME = {
    "#222222": "var(--ink)", "#ffffff": "var(--page)", "#8a8a8a": "var(--soft)", "#555555": "var(--soft)",
    "#444444": "var(--soft)", "#e4e4e4": "var(--rule)",
}  # fmt: skip
"""Matplotlib's neutral colours in the claims' figures → those of the page, which follow the reader's theme."""


def themed(svg: str, name: str, *, alt: str) -> str:
    """A figure of the claims as an inline SVG in the page's colours; `name` keeps its ids apart from other figures'."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"#[0-9a-fA-F]{6}\b", lambda colour: _THEME.get(colour.group().lower(), colour.group()), svg)
    width, height = (re.search(rf'{side}="([\d.]+)pt"', svg) for side in ("width", "height"))
    assert width and height
    svg = svg.replace(width.group(), "", 1).replace(height.group(), "", 1)
    style = f"max-width:{float(width.group(1)) * 4 / 3:.0f}px"
    return svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" style="{style}" ', 1)


_POSITIVE, _NEGATIVE = (192, 57, 47), (47, 111, 181)


def tiles(images: np.ndarray, columns: int, *, alt: str, pixel: int) -> str:
    """(count, height, width) values as a grid of pictures: blue negative, red positive, the page shows through at 0."""
    from matplotlib import image

    count, height, width = images.shape
    rows = -(-count // columns)
    limit = float(np.abs(images).max()) or 1.0
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)  # between them: transparent
    colours = np.empty((*images.shape, 4), np.uint8)
    colours[..., :3] = np.where((images > 0)[..., None], _POSITIVE, _NEGATIVE)
    colours[..., 3] = np.round(255 * np.abs(images) / limit)
    for i in range(count):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = colours[i]
    file = io.BytesIO()
    image.imsave(file, sheet, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img class="tiles" alt="{alt}" width="{sheet.shape[1] * pixel}" src="data:image/png;base64,{data}">'
        f'<p class="note">Blue −{limit:.2f} · nothing 0 · red +{limit:.2f}</p>'
    )


def bars(values: np.ndarray, *, title: str) -> str:
    """One bar per bias, up or down from zero."""
    width, height, left = 560, 120, 52
    limit = float(np.abs(values).max()) or 1.0
    middle, half = height / 2, height / 2 - 8
    step = (width - left) / len(values)
    parts = [
        f'<rect class="{"up" if v >= 0 else "down"}" x="{left + i * step + step * 0.1:.2f}" '
        f'y="{middle - max(v, 0) / limit * half:.2f}" width="{step * 0.8:.2f}" height="{abs(v) / limit * half:.2f}"/>'
        for i, v in enumerate(map(float, values))
    ]
    parts.append(f'<line class="axis" x1="{left}" x2="{width}" y1="{middle}" y2="{middle}"/>')
    for value, y in ((limit, 12), (0.0, middle + 4), (-limit, height - 4)):
        parts.append(f'<text class="tick" x="{left - 8}" y="{y}" text-anchor="end">{_signed(value)}</text>')
    return (
        f'<figure><figcaption>{title}</figcaption><svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg></figure>'
    )


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{'+' if value > 0 else '−'}{abs(value):.2f}"
