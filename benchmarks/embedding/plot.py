"""Draws an SVG bar chart: one bar a contender, with the spread of its rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from benchmarks.report import Summary

WIDTH: Final = 860
LABELS: Final = 290
"""Width of the labels left of the bars."""
VALUES: Final = 150
"""Width of the value right of the longest bar."""
ROW: Final = 36
BAR: Final = 22
TOP: Final = 64
BOTTOM: Final = 34
OURS: Final = "#2563a8"
CEILING: Final = "#9db8d2"
OTHERS: Final = "#b9b4ab"
INK: Final = "#222222"
FONT: Final = 'font-family="system-ui, sans-serif"'


@dataclass(frozen=True)
class Bar:
    """A bar; ``note`` follows its value."""

    label: str
    value: Summary
    color: str
    note: str = ""


def write_bars(path: Path, title: str, subtitle: str, bars: Sequence[Bar], footer: str) -> None:
    """Draw ``bars`` below each other, on one scale from 0."""
    longest = max(bar.value.max for bar in bars)
    scale = (WIDTH - LABELS - VALUES) / longest
    height = TOP + ROW * len(bars) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(16, 26, title, size=17, weight="bold"),
        _text(16, 46, subtitle, size=12),
    ]
    for number, bar in enumerate(bars):
        parts += _bar(bar, TOP + number * ROW, scale)
    parts += [_text(16, height - 12, footer, size=11), "</svg>"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _bar(bar: Bar, y: float, scale: float) -> list[str]:
    middle = y + BAR / 2
    low, high = (LABELS + value * scale for value in (bar.value.min, bar.value.max))
    end = LABELS + bar.value.median * scale
    spread = (
        f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} '
        f'{middle - 4}v8" stroke="{INK}" stroke-width="1.2" fill="none"/>'
    )
    value = f"{bar.value.median:.1f}{f'   {bar.note}' if bar.note else ''}"
    return [
        _text(LABELS - 10, middle + 4, bar.label, anchor="end"),
        f'<rect x="{LABELS}" y="{y}" width="{end - LABELS:.1f}" height="{BAR}" '
        f'fill="{bar.color}"/>',
        spread,
        _text(max(end, high) + 8, middle + 4, value),
    ]


def _text(
    x: float, y: float, text: str, size: int = 13, anchor: str = "start", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {FONT} font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{INK}" xml:space="preserve">{escape(text)}</text>'
    )
