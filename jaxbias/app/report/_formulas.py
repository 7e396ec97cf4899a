"""TeX as inline SVG: matplotlib sets the formula, each glyph is stored once for the whole page."""

import html
import re
from typing import Any

_REPLACED = {
    r"\textstyle": "",
    r"\big": "",
    r"\tfrac12": r"\frac{1}{2}",
    r"\tfrac": r"\frac",
    r"\le": r"\leq",
    r"\ge": r"\geq",
}
"""What matplotlib's mathtext does not know, in words that it knows."""

_EM = 100.0  # matplotlib's text paths are set at this size


class Typesetter:
    """Collects the glyphs of all formulas; `definitions()` goes into the page once."""

    def __init__(self) -> None:
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import TextToPath

        self._paths = TextToPath()
        self._font = FontProperties(math_fontfamily="stix")
        self._glyphs: dict[str, Any] = {}
        self._ids: dict[str, str] = {}

    def svg(self, tex: str) -> str:
        """The formula as an `<svg>` that takes the size and colour of the text around it.

        Raises:
            ValueError: mathtext cannot set it.
        """
        text = tex
        for old, new in _REPLACED.items():
            text = re.sub(re.escape(old) + "(?![A-Za-z])", lambda _, new=new: new, text)
        placed, new, rules = self._paths.get_glyphs_mathtext(
            self._font, f"${text}$", glyph_map=self._glyphs, return_new_glyphs_only=True
        )
        self._glyphs.update(new)
        width, height, depth = self._paths.get_text_width_height_descent(f"${text}$", self._font, ismath=True)
        scale = _EM / self._font.get_size_in_points()  # that call answers in the font's own size
        width, height, depth = width * scale, height * scale, depth * scale
        parts = [
            f'<use href="#{self._id(glyph)}" transform="translate({x:.1f} {y:.1f})'
            f'{"" if size == 1 else f" scale({size:.3g})"}"/>'
            for glyph, x, y, size in placed
        ]
        for vertices, _ in rules:
            xs, ys = [float(v[0]) for v in vertices[:4]], [float(v[1]) for v in vertices[:4]]
            parts.append(
                f'<rect x="{min(xs):.1f}" y="{min(ys):.1f}" width="{max(xs) - min(xs):.1f}" '
                f'height="{max(ys) - min(ys):.1f}"/>'
            )
        margin = 6
        return (
            f'<svg class="tex" role="img" aria-label="{html.escape(tex)}" '
            f'viewBox="{-margin} {-(height - depth) - margin:.1f} {width + 2 * margin:.1f} {height + 2 * margin:.1f}" '
            f'style="width:{(width + 2 * margin) / _EM:.2f}em"><g transform="scale(1 -1)">{"".join(parts)}</g></svg>'
        )

    def _id(self, glyph: str) -> str:
        return self._ids.setdefault(glyph, f"g{len(self._ids)}")

    def definitions(self) -> str:
        """Every glyph used so far, once."""
        shapes = "".join(f'<path id="{name}" d="{_path(*self._glyphs[g])}"/>' for g, name in self._ids.items())
        return f'<svg class="glyphs" aria-hidden="true"><defs>{shapes}</defs></svg>'


def _path(vertices: Any, codes: Any) -> str:
    """A matplotlib path in SVG's letters. Whole units of 1/100 em are finer than any screen shows."""
    letters = {1: ("M", 1), 2: ("L", 1), 3: ("Q", 2), 4: ("C", 3)}
    out, i = [], 0
    while i < len(codes):
        code = int(codes[i])
        if code == 79:
            out.append("Z")
            i += 1
            continue
        letter, points = letters[code]
        out.append(letter + " ".join(f"{x:.1f} {y:.1f}" for x, y in vertices[i : i + points]))
        i += points
    return "".join(out)
