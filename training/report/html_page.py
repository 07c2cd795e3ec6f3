"""The frame of every page that is written here: one HTML file with its style, no scripts, no links to anywhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

STYLE = """
:root { --page:#fff; --card:#f6f7f9; --ink:#1c2330; --soft:#5d6675; --line:#dfe3e9; --accent:#1769d2; --second:#c2570c;
  --bad:#c22534; --warn:#b7791f; --good:#2b7a3f; --limits:#e4e8ee; --halo:#fff; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --page:#14181f; --card:#1c222c; --ink:#e6e9ef; --soft:#9aa4b3;
  --line:#313a47; --accent:#6ea8ff; --second:#f0a35e; --bad:#ff7b86; --warn:#e6b450; --good:#7fcf92; --limits:#2a323e;
  --halo:#000; } }
* { box-sizing: border-box } body { margin:0 auto; max-width:1100px; padding:28px 20px 60px; background:var(--page);
  color:var(--ink); font:15px/1.5 system-ui, sans-serif }
h1 { font-size:26px; margin:0 0 4px } h2 { font-size:19px; margin:38px 0 10px } h3 { font-size:16px; margin:0 }
p { margin:6px 0 } .soft { color:var(--soft) } a { color:var(--accent) }
.facts { display:flex; flex-wrap:wrap; gap:8px; margin:14px 0 0; padding:0; list-style:none }
.facts li { background:var(--card); border:1px solid var(--line); border-radius:8px; padding:6px 12px }
.facts b { font-size:17px; margin-right:5px }
.card { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:14px 16px; margin:14px 0 }
.head { display:flex; flex-wrap:wrap; gap:4px 14px; align-items:baseline; margin-bottom:8px }
.findings { margin:6px 0 10px; padding-left:20px } .findings li { color:var(--warn) }
.findings li.bad { color:var(--bad) } .findings li.usual { color:var(--soft) }
.SUCCESS { color:var(--good) } .FAILURE { color:var(--bad) } .UNKNOWN { color:var(--soft) }
table { border-collapse:collapse; width:100% } th { text-align:left; color:var(--soft); font-weight:500 }
th, td { padding:5px 10px 5px 0; border-bottom:1px solid var(--line); vertical-align:top }
td.number { text-align:right }
.scroll { overflow-x:auto } svg { display:block; width:100%; height:auto; margin:4px 0 }
.camera { font-size:13px; color:var(--soft); margin-top:8px }
.tick { fill:var(--soft); font-size:13px } .name { fill:var(--ink); font-size:14px }
.grid { stroke:var(--line); stroke-width:1 } .grid.over { stroke:#fff; stroke-opacity:.35 }
.line { fill:none; stroke:var(--accent); stroke-width:1.6; stroke-opacity:.55 }
.line.FAILURE { stroke:var(--bad); stroke-opacity:.8 }
.bar { fill:var(--accent) } .limits { fill:var(--limits) } .empty { fill:var(--limits) }
.reach { stroke-width:2 } .reach.state, .range.state { stroke:var(--accent) } .range.state { fill:var(--accent) }
.reach.action, .range.action { stroke:var(--second) } .range.action { fill:var(--second) } .range { stroke-width:0 }
.outside { fill:var(--bad) } .picture { opacity:.82 }
.halo { fill:none; stroke:#000; stroke-opacity:.6; stroke-width:6; stroke-linejoin:round }
.progress { fill:none; stroke:#ffd23f; stroke-width:3; stroke-linejoin:round }
.boundary { stroke:#fff; stroke-width:1.5; stroke-dasharray:5 4 }
.boundary-name { fill:#fff; font-size:13px; paint-order:stroke; stroke:#000; stroke-opacity:.7; stroke-width:3 }
.still { fill:#ff9f1c; fill-opacity:.9 } .jump { fill:#ff3b4e; stroke:#fff; stroke-width:1 }
.key i { display:inline-block; width:14px; height:6px; margin:0 5px 2px 12px; border-radius:2px }
"""


def row(cells: Iterable[str | tuple[str, str]], kind: str = "td") -> str:
    """A row of a table; a cell is HTML, or its class and HTML."""
    pairs = [("", cell) if isinstance(cell, str) else cell for cell in cells]
    return "<tr>" + "".join(f"<{kind} class='{name}'>{cell}</{kind}>" for name, cell in pairs) + "</tr>"


def table(rows: Iterable[str]) -> str:
    """Rows, in a box that scrolls if they are too wide."""
    return f"<div class='scroll'><table>{''.join(rows)}</table></div>"


def key(colours: Mapping[str, str], before: str = "") -> str:
    """What the colours of a chart mean: names by the style's variables."""
    named = "".join(f"<i style='background:var(--{colour})'></i>{name}" for colour, name in colours.items())
    return f"<p class='key soft'>{before}{named}</p>"


def html_page(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole page: its parts in HTML, without those that are empty, and CSS rules of this page alone."""
    head = (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style><body>"
    )
    return "\n".join([head, *filter(None, parts), "</body></html>\n"])
