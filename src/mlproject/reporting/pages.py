"""Pages that need no network: sentences, tables and Plotly figures in one HTML file."""

from collections.abc import Sequence
from typing import NamedTuple

import jinja2
from plotly import graph_objects as go

PLOTLY = {"displaylogo": False, "responsive": True}


class Section(NamedTuple):
    """A part of a page; what it has not is left out. Words are text: whatever stands in them is escaped."""

    heading: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    """Cells as they are to be written, as many as there are columns."""
    note: str = ""
    figure: go.Figure | None = None
    """Plotly takes some HTML in labels: names from outside are to be escaped in it."""
    minor: bool = False
    """Whether the section belongs to the one before it."""
    least_width: int = 0
    """Pixels: in a window that is narrower, the figure keeps this width and scrolls."""


class Report(NamedTuple):
    """What is told of a study."""

    title: str
    sentences: Sequence[str]
    """What was learnt, with numbers."""
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = ()
    """What is needed to repeat it: names and words."""


def page(report: Report) -> str:
    """The report as HTML that stands alone: Plotly is in it, and its policy lets nothing be loaded."""
    drawn: list[tuple[Section, str]] = []
    for number, section in enumerate(report.sections):
        figure = ""
        if section.figure is not None:
            plot = go.Figure(section.figure)
            plot.update_layout(template="plotly_white")
            first = not any(before for _, before in drawn)
            figure = plot.to_html(
                full_html=False, include_plotlyjs=first, div_id=f"figure-{number}", config=PLOTLY
            )
        drawn.append((section, figure))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(report=report, drawn=drawn)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:">
<title>{{ report.title }}</title>
<style>
body { font-family: sans-serif; margin: 1.5em auto; max-width: 70em; padding: 0 1em; color: #222; background: #fff; }
h1 { overflow-wrap: anywhere; font-size: 1.5em; }
h2 { margin: 1.8em 0 .4em; font-size: 1.15em; }
table { border-collapse: collapse; font-size: .9em; }
.wide { overflow-x: auto; }
th, td { text-align: left; padding: .2em .9em .2em 0; border-bottom: 1px solid #ddd; vertical-align: top;
 white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
.words td { white-space: normal; overflow-wrap: anywhere; }
.summary { font-size: 1.1em; line-height: 1.45; overflow-wrap: anywhere; }
.note { color: #555; font-size: .9em; }
.figure { overflow-x: auto; }
@page { size: A4; margin: 14mm; }
@media print { body { max-width: none; margin: 0; } .modebar, .updatemenu-container { display: none; }
 h2, h3, .note { break-after: avoid; } tr, .figure { break-inside: avoid; }
 .figure, .wide { overflow: visible; } .wide { break-after: avoid; } }
</style>
</head>
<body>
<h1>{{ report.title }}</h1>
<p class="summary">{{ report.sentences | join(" ") }}</p>
{% for section, figure in drawn %}
{% if section.minor %}<h3>{{ section.heading }}</h3>{% else %}<h2>{{ section.heading }}</h2>{% endif %}

{% if section.rows %}
<div class="wide"><table>
<tr>{% for name in section.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in section.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}
{% if section.note %}
<p class="note">{{ section.note }}</p>
{% endif %}
{% if figure %}
<div class="figure"><div style="min-width: {{ section.least_width }}px">{{ figure | safe }}</div></div>
{% endif %}
{% endfor %}
{% if report.facts %}
<h2>To repeat it</h2>
<div class="wide words"><table>
{% for name, words in report.facts %}
<tr><th>{{ name }}</th><td>{{ words }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
<script>
// a page is narrower on paper than the window that its figures were drawn for; 680 pixels are an A4 sheet's
function fit(size) { for (const plot of document.querySelectorAll(".js-plotly-plot")) { Plotly.relayout(plot, size); } }
if (window.Plotly) {
  window.addEventListener("beforeprint", () => fit({width: 680}));
  window.addEventListener("afterprint", () => fit({width: null, autosize: true}));
}
</script>
</body>
</html>
"""
