"""The documentation: its Python runs, its pages are listed, and what is made from the sources is right."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tomllib
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from doc_blocks import ROOT, blocks_of, page_run

import pp_mlem
import pp_mlem.sklearn
from pp_mlem.show.catalogue import find_model

matplotlib.use("Agg")
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
sys.path.insert(0, str(DOCS))
import check_links  # noqa: E402
import docstrings  # noqa: E402
import formulas  # noqa: E402
import gallery  # noqa: E402

ELSEWHERE = {"extending.md"}  # tests/test_extending.py runs it, and uses what it defines
PAGES = sorted(
    p for p in [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    if p.name not in ELSEWHERE and blocks_of(p)
)  # fmt: skip
SMALLER = {
    "README.md": {"chains=4": "chains=2"},
    "scale.md": {"range(50)": "range(2)", "1_000_000": "20_000"},
}


def given_to(page: Path) -> dict:
    """Names that the README speaks of without defining them: the reader's data."""
    return {"x": find_model("galaxies").data()["x"]} if page.name == "README.md" else {}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        if page.name != "README.md":  # a page may show what is warned of
            warnings.simplefilter("default")
        with page_run(page, given_to(page), SMALLER.get(page.name)) as defined:
            if page.name == "README.md":
                check_readme(defined)
            if page.name == "index.md":  # what the landing page prints is what is printed
                (told,) = re.findall(r"^```text\n(.*?)^```", page.read_text(), re.S | re.M)
                assert told in capsys.readouterr().out
    plt.close("all")


def check_readme(defined):
    told = re.search(r"# (best log-likelihood .* starts); \.\.\.", (ROOT / "README.md").read_text())
    assert told and defined["em"].story.startswith(told[1])


def test_every_block_is_marked():
    """No other way of writing a block of Python, which would not run and not be seen to."""
    for page in [*DOCS.glob("**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        if page.parent.name == "gallery" or "_build" in page.parts:
            continue  # made from models/, which tests/test_models.py fits
        fences = re.findall(r"^\s*```(.*py.*)$", page.read_text(), re.M)
        assert set(fences) <= {"python", "{code-block} python"}, page


def test_every_page_is_listed():
    listed = set(re.findall(r"[\w/]+\.md", (DOCS / "index.md").read_text()))
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or page.name in listed, page.name
    index = (DOCS / "reference" / "index.md").read_text()
    for page in (DOCS / "reference").glob("*.md"):
        assert page.name in index + "index.md", page.name


def test_every_public_name_is_in_the_reference():
    told = "\n".join(p.read_text() for p in (DOCS / "reference").glob("*.md"))
    for name in pp_mlem.__all__:
        assert f":: pp_mlem.{name}\n" in told, name
    for name in pp_mlem.sklearn.__all__:
        assert f":: pp_mlem.sklearn.{name}\n" in told, name


def test_every_public_name_has_a_docstring():
    for name in pp_mlem.__all__:
        own = getattr(pp_mlem, name)
        assert inspect.getdoc(own), name
        if inspect.isclass(own):
            for method, of in vars(own).items():
                if callable(of) and not method.startswith("_"):
                    assert inspect.getdoc(getattr(own, method)), f"{name}.{method}"


def test_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_front_pages(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert (ROOT / link).exists(), link


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
        '<a href="#here">4</a><a href="https://example.org/x">5</a></p>'
        '<script src="https://example.org/x.js"></script><img src="data:image/png;base64,AA">'
    )
    (tmp_path / "b.html").write_text('<h1 id="there"></h1><link rel="next" href="a.html">')
    assert check_links.problems(tmp_path) == [
        "a.html: loads https://example.org/x.js",
        "a.html: b.html#gone has no such place in its page",
        "a.html: c.html leads nowhere",
    ]


def test_docstrings_are_plain_text():
    text = "An array (*plates, values) of `p_`; P>|z| of means_, doi:10.1000/x."
    expected = (
        r"An array (\*plates, values) of `p_`; P>\|z\| of means\_, "
        "`doi:10.1000/x <https://doi.org/10.1000/x>`__."
    )
    assert docstrings.plain(text) == expected
    lines = ["Head.", "", "Attributes:", "    low, high: limits", "        of it.", "    n: size."]
    docstrings.process(None, "class", "x", None, None, lines)
    assert lines[3:] == ["    low: limits", "        of it.", "    high: limits", "        of it.",
                         "    n: size."]  # fmt: skip
    example = ["Text *a*.", "", ">>> f(*a)", "2", "", "More *b*."]
    docstrings.process(None, "function", "x", None, None, example)
    assert example == [r"Text \*a\*.", "", ">>> f(*a)", "2", "", r"More \*b\*."]


# --- the gallery ----------------------------------------------------------------------------------

STATEMENTS = {
    "z_n ~ Categorical(w)": r"z_{n}&\sim \mathrm{Categorical}(w)",
    "x_n ~ Normal(mu[z_n], s)": r"x_{n}&\sim \mathrm{Normal}(\mu_{z_{n}},\ s)",
    "x_t ~ Poisson(rate[z_{t-1}])": r"x_{t}&\sim \mathrm{Poisson}(\text{rate}_{z_{t-1}})",
    "y_i ~ Normal(b0 + b_i1 x_i^2, sqrt(H))": (
        r"y_{i}&\sim \mathrm{Normal}(b_{0}+b_{i1}\,x_{i}^{2},\ \sqrt{H})"
    ),
    "y*_i = x_i' b": r"y^{*}_{i}&=x_{i}'\,b",
    "y_n ~ Normal(x_n' beta, s)": r"y_{n}&\sim \mathrm{Normal}(x_{n}'\,\beta ,\ s)",
    "u ~ Normal(0, I) or a law of P": (
        r"u&\sim \mathrm{Normal}(0,\ I)\ \text{or}\ \text{a}\ \text{law}\ \text{of}\ P"
    ),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_formulas(statement):
    assert formulas.is_formula(statement)
    body = formulas.latex(statement).split("\n")[1:-1]
    assert body == [STATEMENTS[statement]]


def test_statements_stand_in_lines_of_their_own():
    body = formulas.latex("a ~ N(0, 1),  b ~ N(a, 1),\nc ~ N(b, 1), NaN where nothing was seen")
    assert body.count(r"\sim") == 3 and body.count(r"\\") == 3


@pytest.mark.parametrize(
    "sentence",
    [
        "The rows are drawn. x ~ Normal(0, 1) is their law.",
        "That is t_i ~ Weibull(1, 2).",
        "By maximum likelihood -2 log L = 332.188349, mu = 22.97222.",
        "K = 2 is what BIC chooses. Three classes add little.",
        "w and mu are parameters, z is latent.",
    ],
)
def test_sentences_are_no_formulas(sentence):
    assert not formulas.is_formula(sentence)


@pytest.mark.parametrize("path", sorted(gallery.MODELS.glob("*.py")), ids=lambda p: p.stem)
def test_gallery_page(path):
    entry = gallery.read(path)
    page = gallery.page(entry)
    assert entry.title and len(entry.title) < 80
    stated = any(formulas.is_formula(p) for p in entry.body.split("\n\n"))
    assert ("```{math}" in page) == stated
    balanced = [page.count(f"\\{end}{{aligned}}") for end in ("begin", "end")]
    assert balanced[0] == balanced[1]
    program, data, picture = gallery.parts(entry.source)
    assert "def model(" in program and "def data(" in data
    assert ("def picture(" in picture) == ("def picture(" in entry.source)
    longest = max(len(block.split("\n")) for block in (program, data))
    assert longest < 90, "a table of data fills the page"
    for name, (value, tolerance) in entry.published.items():
        written = name.replace("|", r"\|")
        assert f"| `{written}` | {value} | {tolerance:g} |" in page
    if entry.picture:
        assert (gallery.GALLERY / "pictures" / entry.picture).stat().st_size < 60_000


def test_tables_of_data_are_cut():
    rows = ",\n    ".join(str(i) for i in range(40))
    source = f"x = [\n    {rows},\n]\n\n\ndef data():\n    return x\n"
    cut = gallery.shortened(source)
    assert "more lines" in cut and cut.count("\n") < 12 and "    39," not in cut
    ast.parse(cut)
    assert gallery.shortened("x = [f(i) for i in range(3)]\n") == "x = [f(i) for i in range(3)]\n"


def test_plain_text_stays_plain():
    text = "a*b_1 [c] costs $2 | see `x[0]`, doi:10.1000/a_b."
    link = r"[doi:10.1000/a\_b](https://doi.org/10.1000/a_b)"
    assert gallery.escaped(text) == rf"a\*b\_1 \[c\] costs \$2 \| see `x[0]`, {link}."
