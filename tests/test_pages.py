"""The pages as a browser has them: no error, nothing wider than a phone, sliders that move."""

import html
import json
import re
import shutil
import subprocess

import jax.numpy as jnp
import pytest
import studied

from lstm_jax import charts, pages, report
from lstm_jax.plots import show, theme
from lstm_jax.plots.lesson import lesson
from lstm_jax.studies import laboratory, table
from lstm_jax.studies.record import Anchor, Findings, Study

CHROMIUM = shutil.which("chromium")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-quic"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The pages of a small study, of the laboratory and of a comparison of cells: {name: HTML}."""
    out = tmp_path_factory.mktemp("pages")
    anchor = Anchor("x", "a_long_name_that_no_line_has_room_for " * 2, 1.0, "C", "above", 0.5, "f")

    def run(setting):
        values = [[float(jnp.ones(())), 5.0 + seed, 1.0] for seed in setting.seeds]
        return Findings({"x": [1.0, 2.0, 3.0]}, {"values": values}, {"note": [1e-9, 2.0, 3.0]})

    def draw(data):
        title, axis = "It rises to a peak and falls again", "a quantity, in units, " * 4
        lines = [charts.line("LSTM", [0, 1, 2], data["values"])]
        return [charts.Chart("curve", title, "steps", axis, lines, "A caption.")]

    study = Study("S1", "A small study", "What is x?", (anchor,), run, draw, "A remark.")
    result = laboratory.complete(study, "ci", (0, 1, 2), out)
    pages.write_study(study, result, out)
    pages.write_index(table.STUDIES | {"S1": study}, [result], table.NOT_BUILT, out)
    found = studied.judged(studied.results())
    written = {name: (out / name).read_text() for name in ("S1.html", "index.html")}
    lines = [charts.line("LSTM", [0, 1, 2], [1, 5, 2])]
    panels = [charts.Chart(name, name, "x", "y", lines) for name in ("left", "right")]
    one = show(charts.Figure("one", "A title", panels))
    return written | {"report.html": report.render(found, Everywhere(one))}


class Everywhere(dict):
    """One drawn figure in place of all, which take seconds to draw."""

    def __init__(self, shown):
        self.shown = shown

    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return self.shown


SCRIPT = """
onload = () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const hidden = (table) => table.scrollWidth > table.parentElement.clientWidth;
    found[frame.title] = {room: root.clientWidth, width: root.scrollWidth,
                          cut: [...page.querySelectorAll(".cells")].filter(hidden).length};
    for (const input of page.querySelectorAll("input[type=range]")) {
      const name = input.id.replace("choose-", "");
      input.value = 3;
      input.dispatchEvent(new Event("input"));
      found[frame.title][name] = [page.getElementById("by-" + name).getAttribute("d"),
                                  page.getElementById("said-" + name).textContent];
    }
  }
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = JSON.stringify(found);
};
"""


def browse(folder, written, script=SCRIPT, *more):
    """Open pages, each in a frame of 400 pixels: (what the script found, what the browser said).

    `more` are options of the browser.
    """
    frames = [
        f'<iframe width=400 height=800 title="{name}" srcdoc="{html.escape(page)}"></iframe>'
        for name, page in written.items()
    ]
    path = folder / "frames.html"
    path.write_text(f"<body>{''.join(frames)}<script>{script}</script></body>")
    options = [*QUIET, *more, "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    command = [CHROMIUM, *options, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[:1000]
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found.group(1))), said


def test_pages_in_a_browser(made, tmp_path):
    found, said = browse(tmp_path, made)
    assert said == []
    assert found.keys() == made.keys()
    for page in found.values():
        assert page["width"] <= page["room"] <= 400 and page["cut"] == 0
    for name, slider in lesson()["sliders"].items():
        if name != "lags":
            path, text = found["report.html"][name]
            assert (path, text) == (slider["paths"][3], slider["said"][3])


@pytest.mark.grid
def test_the_browser_reports_what_is_broken(tmp_path):
    """The two checks above can fail."""
    wide = "<div style='width: 900px'>wide</div>"
    found, said = browse(tmp_path, {"wide": wide, "error": "<script>missing()</script>"})
    assert found["wide"]["width"] > 400
    assert len(said) == 1 and "missing" in said[0]


COLORS = """
onload = () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const svg = frame.contentDocument.querySelector(".panels > svg");
    const style = name => getComputedStyle(svg.querySelector(name));
    found[frame.title] = [style("text").fill, style("path").fill, style("use").stroke];
  }
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = JSON.stringify(found);
};
"""


@pytest.mark.grid
@pytest.mark.parametrize("dark", [True, False])
def test_text_and_axes_of_figures_follow_a_dark_screen(made, tmp_path, dark):
    pages = {name: made[name] for name in ("S1.html", "report.html")}
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    found, _ = browse(tmp_path, pages, COLORS, scheme)
    ink, paper = theme.DARK.items()
    for name, (text, behind, tick) in found.items():
        assert (text, behind, tick) == (_rgb(ink[dark]), _rgb(paper[dark]), _rgb(ink[dark])), name


def _rgb(color):
    return f"rgb({', '.join(str(int(color[n : n + 2], 16)) for n in (1, 3, 5))})"
