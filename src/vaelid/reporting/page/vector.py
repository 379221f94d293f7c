"""Figures and images as parts of a page: SVG that follows the page's colors, and pixels as PNG in a data address.

A figure drawn for white paper keeps its form; its colors become the page's own names, so that one drawing serves light and dark.
"""

from __future__ import annotations

import base64
import colorsys
import io
import re

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vaelid.reporting import charts, plots

#: Colors that the style sheet has a name for.
_NAMES = {
    charts.INK: "ink",
    charts.QUIET: "quiet",
    charts.RULE: "rule",
    charts.GRAY: "gray",
    charts.BLUE: "blue",
    charts.ORANGE: "orange",
    "#7FB8D8": "bars",
    "#FFFFFF": "paper",
}
_TOKENS = {color.lower(): f"var(--{name})" for color, name in _NAMES.items()}
#: Of the page in the dark theme, as the style sheet has it; the least contrast of a line or a name with it.
_DARK_PAPER, _LEAST_CONTRAST = "#14171a", 4.5
_LIGHT_PAPER = "#ffffff"
_COLOR = re.compile(r"(fill|stroke): ?(#[0-9a-fA-F]{6})")
_TEXT = re.compile(r"(<text [^>]*?)fill: ?(#[0-9a-fA-F]{6})")
_ID = re.compile(r'(\bid="|xlink:href="#|url\(#)')


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element, without size of its own, hidden from screen readers: what surrounds it has the words.

    Args:
        name: sets its inner addresses apart from those of other figures on the page
    """
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # text stays text, equal figures equal bytes
        figure.savefig(buffer, format="svg", facecolor="none", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(
        r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true" focusable="false">', text, count=1
    )
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's
    text = re.sub(r"\s*\n\s*", " ", re.sub(r'<g id="[^"]*"', "<g", text))
    text = _ID.sub(lambda match: f"{match[1]}{name}-", text)
    text = _TEXT.sub(lambda match: f"{match[1]}fill: {themed(match[2], legible=True)}", text)
    return _COLOR.sub(lambda match: f"{match[1]}: {themed(match[2], match[1] == 'stroke')}", text)


def themed(color: str, legible: bool = False) -> str:
    """A color for both themes: the page's name for it, or itself in the light and a lighter one in the dark.

    Args:
        legible: of a line or a letter, which must stand out from the light page, too; an area need not

    >>> themed("#0072B2"), themed("#440154"), themed("#fde725", legible=True)
    ('var(--blue)', 'light-dark(#440154, #d11bfc)', 'light-dark(#837601, #fde725)')
    """
    name = _TOKENS.get(color.lower())
    return name or f"light-dark({_apart(color, _LIGHT_PAPER) if legible else color}, {_apart(color, _DARK_PAPER)})"


def _apart(color: str, paper: str) -> str:
    """The color, made darker or lighter until it can be read on the paper."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*_channels(color))
    step = 0.01 if _luminance(paper) < 0.5 else -0.01
    while contrast(color, paper) < _LEAST_CONTRAST:
        lightness += step
        color = "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(hue, lightness, saturation))
    return color


def contrast(one: str, other: str) -> float:
    """The contrast of two colors, 1 to 21 (Web Content Accessibility Guidelines 2.2, relative luminance).

    >>> round(contrast("#000000", "#ffffff"), 1)
    21.0
    """
    brighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def png(images: np.ndarray, columns: int | None = None) -> str:
    """Images ``(N, *X)`` in a grid as a data address: one PNG pixel per image pixel, the gaps transparent."""
    gray = plots.tile(images, columns)
    paper = plots.tile(np.zeros_like(images), columns)  # white where there is no image
    alpha = 255 - (paper if paper.ndim == 2 else paper[..., 0])
    stacked = np.dstack((gray, alpha)) if gray.ndim == 2 else np.concatenate((gray, alpha[..., None]), 2)
    buffer = io.BytesIO()
    Image.fromarray(stacked).save(buffer, "PNG", optimize=True)
    return address(buffer.getvalue(), "image/png")


def address(content: bytes, kind: str) -> str:
    """Content as a data address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _channels(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
