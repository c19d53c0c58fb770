#!/usr/bin/env python3
"""Draws doc/benchmarks-*.svg from the tables of the wheel in doc/benchmarks.md: python3 benches/plot.py"""

import math
import pathlib
import re

DOC = pathlib.Path(__file__).parent.parent / "doc"
COLORS = {
    "xcron": "#d9480f",
    "nexus-timer": "#1c7ed6",
    "hashed-wheel": "#7048e8",
    "delay-queue": "#2b8a3e",
    "binary-heap": "#868e96",
    "btree-map": "#b08900",
}
STYLE = """<style>text { font: 12px sans-serif; fill: #3d444d } .line { stroke: #8b949e55 }
@media (prefers-color-scheme: dark) { text { fill: #d1d7e0 } }</style>"""


def tables():
    """{(timers, deadlines): {queue: {column: figure}}}"""
    found, now = {}, None
    for line in (DOC / "benchmarks.md").read_text().splitlines():
        if head := re.match(r"(\d+) timers over (\S+?):", line):
            now, columns = found.setdefault((int(head[1]), head[2]), {}), None
        elif now is not None and line.startswith("| "):
            cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
            if columns is None:
                columns = cells[1:]
            elif cells[0] in COLORS:
                # What was given up has a dash.
                now[cells[0]] = {name: float(cell) for name, cell in zip(columns, cells[1:]) if cell != "–"}
        elif line and not line.startswith("|"):
            now = None
    return found


def svg(name, title, width, height, body):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
    text = f'<text x="8" y="18" font-weight="bold">{title}</text>'
    (DOC / name).write_text("\n".join([head, STYLE, text, *body, "</svg>"]) + "\n")


def operations(rows):
    """Bars by operation, on a logarithmic scale."""
    left, right, top, bar = 130, 560, 50, 11
    low, high = 5, 5000
    x = lambda ns: left + (right - left) * math.log(max(ns, low) / low) / math.log(high / low)
    shown = ["insert_cold", "insert_steady", "cancel", "expire", "expire_by_wakes", "churn"]
    body, y = [], top
    for column in shown:
        body.append(f'<text x="8" y="{y + bar * 3.5:.0f}">{column}</text>')
        for queue, color in COLORS.items():
            ns = rows[queue][column]
            body.append(f'<rect x="{left}" y="{y}" width="{x(ns) - left:.1f}" height="{bar - 2}" fill="{color}"/>')
            body.append(f'<text x="{x(ns) + 4:.1f}" y="{y + 9}" style="font-size:10px">{ns:.0f}</text>')
            y += bar
        y += 12
    for ns in (10, 100, 1000):
        body.insert(0, f'<path class="line" d="M{x(ns):.1f} {top - 6}V{y}"/>')
        body.append(f'<text x="{x(ns):.1f}" y="{top - 10}" text-anchor="middle">{ns} ns</text>')
    for i, (queue, color) in enumerate(COLORS.items()):
        body.append(f'<rect x="{8 + i * 100}" y="{y + 4}" width="10" height="10" fill="{color}"/>')
        body.append(f'<text x="{22 + i * 100}" y="{y + 13}">{queue}</text>')
    svg("benchmarks-operations.svg", "1 M timers within an hour: ns per timer, by operation", 620, y + 24, body)


def stalls(all_rows):
    """The longest single advance over all deadlines, by size."""
    left, right, top, bottom = 60, 480, 40, 280
    sizes = sorted({size for size, deadlines in all_rows if deadlines == "1h"})
    low, high = 0.1, 10000
    x = lambda size: left + (right - left) * math.log10(size / sizes[0]) / math.log10(sizes[-1] / sizes[0])
    y = lambda ms: bottom - (bottom - top) * math.log10(max(ms, low) / low) / math.log10(high / low)
    body = []
    for ms in (0.1, 1, 10, 100, 1000, 10000):
        body.append(f'<path class="line" d="M{left} {y(ms):.1f}H{right}"/>')
        body.append(f'<text x="{left - 6}" y="{y(ms) + 4:.1f}" text-anchor="end">{ms:g} ms</text>')
    for size in sizes:
        body.append(f'<text x="{x(size):.1f}" y="{bottom + 18}" text-anchor="middle">{size:,}</text>')
    ends = []
    for queue, color in COLORS.items():
        points = [(x(size), y(all_rows[size, "1h"][queue]["jump max"])) for size in sizes]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        body.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        ends.append((points[-1][1], queue, color))
    at = 0
    for py, queue, color in sorted(ends):
        at = max(py + 4, at + 13)
        body.append(f'<rect x="{right + 8}" y="{at - 9:.1f}" width="10" height="10" fill="{color}"/>')
        body.append(f'<text x="{right + 22}" y="{at:.1f}">{queue}</text>')
    svg("benchmarks-stalls.svg", "All due at once: the longest single call, by how many timers", 600, 310, body)


rows = tables()
operations(rows[1_000_000, "1h"])
stalls(rows)
