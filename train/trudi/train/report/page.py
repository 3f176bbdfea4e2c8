"""One HTML file: no network, no scripts but a few lines of its own; and its tables as Markdown. All text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from trudi.train.report.style import Panel, slug, to_svg

CSS = """
:root { color-scheme: light dark; --ink: #1c1c1c; --page: #ffffff; --soft: #f3f4f6; --line: #d4d7dc; --link: #0057a8;
  --bad: #8f1d1d; --bad-page: #fdecec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --page: #15171b; --soft: #22252b; --line: #3b4048;
  --link: #8ab8f0; --bad: #ffb4b4; --bad-page: #3a1d1f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 86rem; color: var(--ink); background: var(--page);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .2rem 0 .6rem; }
h2 { font-size: 1.2rem; display: inline; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, ul, dl { max-width: 70ch; margin: .4rem 0 .8rem; }
a { color: var(--link); }
nav ul { columns: 17rem; padding-left: 1.2rem; max-width: none; }
details { border-top: 1px solid var(--line); padding: .7rem 0; }
details details { border: 0; padding: .2rem 0 .2rem .2rem; }
summary { cursor: pointer; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--soft); vertical-align: bottom; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.long { min-width: 14rem; overflow-wrap: anywhere; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\25B2"; } th[aria-sort=descending] button::after { content: " \\25BC"; }
.best { font-weight: 700; }
.bad { border: 2px solid var(--bad); background: var(--bad-page); padding: .4rem .8rem; margin: .8rem 0; }
.bad h3, .bad strong { color: var(--bad); margin-top: .3rem; }
.figures { display: grid; gap: .8rem; margin: .8rem 0; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: 4px; padding: .2rem; }
figure svg { display: block; width: 100%; height: auto; max-width: 34rem; margin: auto; }
svg text { font-family: "DejaVu Sans", Verdana, system-ui, sans-serif; }
code { font-size: .9em; }
"""

SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    if (a === "" || b === "") return (a === "") - (b === "");
    return (up ? 1 : -1) * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
  };
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
});
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => {
  document.querySelector(link.getAttribute("href")).open = true;
});
"""


# A browser keeps this too: nothing is fetched, whatever the results say.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Cell:
    """A table's cell."""

    text: str
    key: float | None = None
    """What a number is sorted by; NaN goes last. None for text."""
    best: bool = False
    long: bool = False
    """Whether it may be broken into several lines."""


@dataclass(frozen=True)
class Table:
    """A table that is sorted by a click on a column's name."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def html(self) -> str:
        """The element; a column is to the right where its first cell is a number."""
        first = self.rows[0] if self.rows else []
        kinds = [' class="n"' if cell.key is not None else "" for cell in first] or [""] * len(self.columns)
        head = "".join(
            f'<th{kind} scope="col"><button type="button">{escape(name)}</button></th>'
            for kind, name in zip(kinds, self.columns, strict=True)
        )
        body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in self.rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
        return f'<div class="scroll" tabindex="0">{table}</div>'

    def markdown(self) -> str:
        """The same as a table of Markdown, a column to the right as there."""
        first = self.rows[0] if self.rows else []
        rules = ["---:" if cell.key is not None else "---" for cell in first] or ["---"] * len(self.columns)
        words = [map(_inline, self.columns), rules, *([_cell_markdown(cell) for cell in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in words)


@dataclass
class Section:
    """A part of the report that can be closed."""

    title: str
    parts: list[str] = field(default_factory=list[str])
    """HTML."""
    markdown: list[str] = field(default_factory=list[str])
    """Of that the headings, facts and open tables."""

    @property
    def anchor(self) -> str:
        """Its id."""
        return f"section-{slug(self.title)}"

    def text(self, *paragraphs: str) -> None:
        """Plain text, escaped."""
        self.parts += [f"<p>{escape(each)}</p>" for each in paragraphs]

    def heading(self, text: str) -> None:
        """Of what follows."""
        self.parts.append(f"<h3>{escape(text)}</h3>")
        self.markdown.append(f"### {_inline(text)}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], closed: str | None = None) -> None:
        """A table, if it has rows; behind a line of text where `closed` says one."""
        if rows:
            table = Table(columns, rows)
            self._add(table.html(), closed)
            if closed is None:
                self.markdown.append(table.markdown())

    def warning(self, title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """What nobody may miss."""
        table = Table(columns, rows)
        inner = f"<h3>{escape(title)}</h3><p>{escape(text)}</p>{table.html()}"
        self.parts.append(f'<div class="bad" role="note">{inner}</div>')
        self.markdown += [f"### {_inline(title)}", _inline(text), table.markdown()]

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Names and what they are."""
        inner = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
        self.parts.append(f"<dl>{inner}</dl>")
        self.markdown.append("\n".join(f"- {_inline(name)}: {_inline(value)}" for name, value in facts))

    def figures(self, panels: Sequence[Panel], closed: str | None = None) -> None:
        """Panels side by side as far as there is room; behind a line of text where `closed` says one."""
        inner = '<div class="figures">' + "".join(map(_figure, panels)) + "</div>"
        self._add(inner, closed)

    def _add(self, inner: str, closed: str | None) -> None:
        self.parts.append(inner if closed is None else f"<details><summary>{escape(closed)}</summary>{inner}</details>")

    def html(self) -> str:
        """The element, open."""
        inner = "\n".join(self.parts)
        summary = f"<summary><h2>{escape(self.title)}</h2></summary>"
        return f'<details class="section" id="{self.anchor}" open>{summary}\n{inner}\n</details>'


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole file."""
    links = "".join(f'<li><a href="#{each.anchor}">{escape(each.title)}</a></li>' for each in sections)
    body = "\n".join(each.html() for each in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<nav aria-label="Contents"><ul>{links}</ul></nav>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""


def tables(title: str, sections: Sequence[Section]) -> str:
    """The sections' facts and tables as one file of Markdown."""
    parts = [f"# {_inline(title)}"]
    for each in sections:
        if any(not part.startswith("###") for part in each.markdown):
            parts += [f"## {_inline(each.title)}", *each.markdown]
    return "\n\n".join(parts) + "\n"


def text(value: str, *, long: bool = False) -> Cell:
    """A cell of words."""
    return Cell(value, long=long)


def number(value: float, shown: str | None = None, *, best: bool = False) -> Cell:
    """A cell that is sorted as a number; a dash where there is none."""
    if not math.isfinite(value):
        return Cell("\u2013" if shown is None else shown, math.nan)
    return Cell(significant(value) if shown is None else shown, value, best)


def significant(value: float, like: float | None = None) -> str:
    """Three digits or more, without an exponent, with thousands apart; a dash for what is no number.

    As many after the point as `like` has by the same rule, where it is given.
    """
    if not math.isfinite(value):
        return "\u2013"
    size = abs(value if like is None else like)
    digits = 0 if size >= 100.0 else 1 if size >= 10.0 else 2
    return f"{value:,.{digits}f}"


def spread(mean: float, std: float) -> str:
    """mean +- standard deviation, or the mean alone where there is no other."""
    return significant(mean) if not math.isfinite(std) else f"{significant(mean)} \u00b1 {significant(std, like=mean)}"


def _inline(value: str) -> str:
    """Words that Markdown takes for nothing else, on one line."""
    return escape(" ".join(value.split()), quote=False).translate({ord(sign): f"\\{sign}" for sign in "|*_`[]\\"})


def _cell_markdown(cell: Cell) -> str:
    return f"**{_inline(cell.text)}**" if cell.best else _inline(cell.text)


def _cell(cell: Cell) -> str:
    names = [name for name, is_set in (("n", cell.key is not None), ("best", cell.best), ("long", cell.long)) if is_set]
    kind = f' class="{" ".join(names)}"' if names else ""
    key = "" if cell.key is None else f' data-key="{"" if math.isnan(cell.key) else f"{cell.key:.6g}"}"'
    return f"<td{kind}{key}>{escape(cell.text)}</td>"


def _figure(panel: Panel) -> str:
    svg = to_svg(panel).replace("<svg", f'<svg role="img" aria-label="{escape(panel.caption)}"', 1)
    return f"<figure>{svg}</figure>"
