"""Pictures and the report: what is drawn is what was fitted, and nothing overlaps or is cut."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from numpyro.contrib.control_flow import scan

from pp_mlem import Model, compare, fit_em, fit_map, fit_mle, select
from pp_mlem.base.digits import with_error
from pp_mlem.show.axis_labels import column_labels, label_of, step_axis, value_labels
from pp_mlem.show.catalogue import find_model
from pp_mlem.show.covariates import covariates_of
from pp_mlem.show.grouped import conditional_means, grouped_sites
from pp_mlem.show.plots.comparison import comparison_figures, plot_comparison, save_pictures
from pp_mlem.show.plots.look import DPI, component_colour, method_colours
from pp_mlem.show.plots.marks import HEXAGONS
from pp_mlem.show.report import Frame, merged_warnings, write_report

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 2, 120)
PLANE = 3.0 * LABELS[:, None] + RNG.normal(size=(120, 2))
COVARIATE = RNG.uniform(0, 4, 120)
RESPONSE = np.where(LABELS, 1 + 2 * COVARIATE, 9 - COVARIATE) + 0.3 * RNG.normal(size=120)
ITEMS = (RNG.random((120, 3)) < np.where(LABELS[:, None], 0.9, 0.2)).astype(int)
STATES = np.repeat([0, 1, 0], [30, 25, 25])
SERIES = 4.0 * STATES + RNG.normal(size=80)


def plane(x, K=2):
    """A mixture in the plane.

    x: length (cm), width (cm)
    """
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([K, x.shape[1]]).to_event(2))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sigma).to_event(1), obs=x)


def lines(x, y, K=2):
    """x: speed (m/s)"""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    b = numpyro.sample("b", dist.Normal(0, 10).expand([K, 2]).to_event(2))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(b[z, 0] + b[z, 1] * x, sigma), obs=y)


def classes(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    p = numpyro.sample("p", dist.Beta(1, 1).expand([K, x.shape[1]]).to_event(2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Bernoulli(p[z]).to_event(1), obs=x)


def chain(x, K=2):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([K]).to_event(1))

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x_t)
        return z, None

    scan(step, 0, x)


def slopes(x, y):
    b = numpyro.sample("b", dist.Normal(0, 10))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=b * (x - 2)), obs=y)


def levels(y, group):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu + u[group], 1.0), obs=y)


BINARY = (RNG.random(120) < 1 / (1 + np.exp(-1.5 * (COVARIATE - 2)))).astype(int)
YEARS = pd.Series(SERIES, index=pd.RangeIndex(1900, 1980, name="year"))
GROUP = np.repeat(np.arange(4), 30)
MODELS = {
    "plane": lambda: Model(plane, PLANE),
    "space": lambda: Model(plane, np.column_stack([PLANE, PLANE[:, 0] + RNG.normal(size=120)])),
    "lines": lambda: Model(lines, COVARIATE, RESPONSE),
    "classes": lambda: Model(classes, ITEMS, coords={"z": ["no", "yes"]}),
    "chain": lambda: Model(chain, YEARS),
    "slopes": lambda: Model(slopes, COVARIATE, BINARY),
    "levels": lambda: Model(levels, GROUP + RNG.normal(size=120), GROUP),
}


@pytest.fixture(scope="module")
def fits():
    """One fit by EM for each kind of picture."""
    return {n: fit_em(make(), starts=3, seed=0, progress=False) for n, make in MODELS.items()}


def texts_of(figure: Figure, shown: list) -> list[Text]:
    """The texts that are drawn, of ticks those within the limits of their axis."""
    ticks = {
        axis: [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for axes in shown
        for axis in (axes.xaxis, axes.yaxis)
    }
    labels = [t for own in ticks.values() for tick in own for t in (tick.label1, tick.label2)]
    seen = [
        tick.label1
        for axis, own in ticks.items()
        for tick in own
        if min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]
    others = [
        t
        for t in figure.findobj(Text)
        if not any(t is own for own in labels) and (t.axes is None or t.axes in shown)
    ]
    return [t for t in [*seen, *others] if t.get_visible() and t.get_text().strip()]


def assert_clear(figure: Figure) -> None:
    """No text beyond the edges, no legend or title over axes, no legend over another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    shown = [a for a in figure.axes if a.get_visible()]
    assert shown
    whole = figure.bbox.padded(1)
    for text in texts_of(figure, shown):
        box = text.get_window_extent(renderer)
        assert whole.contains(box.x0, box.y0) and whole.contains(box.x1, box.y1), text
    apart = [*figure.legends, *(a.get_legend() for a in shown if a.get_legend())]
    boxes = [legend.get_window_extent(renderer) for legend in apart]
    if figure.get_suptitle():
        boxes.append(figure._suptitle.get_window_extent(renderer))
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(a.get_window_extent(renderer).padded(-1)) for a in shown)
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


@pytest.mark.parametrize("name", MODELS)
def test_nothing_overlaps_or_is_cut(fits, name):
    figures = comparison_figures(
        compare({"EM": fits[name], "a $second$ of a long name_": fits[name]})
    )
    assert {"estimates", "paths", "optima", "predictive_check"} <= set(figures)
    assert ("components" in figures) == (name not in ("slopes", "levels"))
    assert ("latents" in figures) == (name == "levels")
    for figure, caption in figures.values():
        assert_clear(figure)
        assert caption.endswith(".")


def test_all_pictures_of_a_comparison(galaxies_em, small_nuts, tmp_path):
    mode = fit_map(galaxies_em.model, init=galaxies_em.params, progress=False)
    found = compare({"EM": galaxies_em, "MAP": mode, "NUTS": small_nuts})
    before = dict(matplotlib.rcParams)
    whole = plot_comparison(found)
    assert_clear(whole)
    labels = [a.get_ylabel() for a in whole.axes]
    assert "log-likelihood (nats)" in labels and "log posterior (nats)" in labels
    paths = save_pictures(found, tmp_path)
    assert dict(matplotlib.rcParams) == before
    names = {
        "components",
        "estimates",
        "posterior_and_normal",
        "predictive_check",
        "paths",
        "optima",
    }
    assert {p.name for p in paths} == {f"{n}.{e}" for n in names for e in ("png", "svg")}
    for name in names:
        width = imread(tmp_path / f"{name}.png").shape[1]
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        assert width == pytest.approx(
            DPI * float(root.attrib["width"].removesuffix("pt")) / 72, abs=1
        )
    text = (tmp_path / "components.svg").read_text()
    assert "<text" not in text and "<path" in text  # letters are shapes: they look alike everywhere


def test_colours_are_of_methods_and_components(fits):
    colours = method_colours({"EM": fits["plane"], "two": fits["lines"], "three": fits["chain"]})
    assert len(set(colours.values())) == 3 and colours["EM"] == "#0072b2"
    own = fits["plane"].plot_components()
    (marks,) = [c for c in own.axes[0].collections if isinstance(c, PathCollection)]
    sure = fits["plane"].posterior()["z"]
    wanted = np.array([to_rgb(component_colour(k)) for k in sure.argmax(1)])
    np.testing.assert_allclose(marks.get_facecolors()[:, :3], wanted)
    strength = marks.get_facecolors()[:, 3]
    order = np.argsort(sure.max(1))
    assert np.all(np.diff(strength[order]) >= 0) and strength.max() > 0.99
    assert "length (cm)" == own.axes[0].get_xlabel() and "width (cm)" == own.axes[0].get_ylabel()


def test_many_rows_are_counted_in_hexagons(fits):
    many = np.tile(PLANE, (HEXAGONS // len(PLANE) + 1, 1))
    model = Model(plane, many)
    fit = fit_em(model, init=fits["plane"].params, max_iter=1, progress=False)
    axes = fit.plot_components().axes[0]
    (cells,) = [c for c in axes.collections if isinstance(c, PolyCollection)]
    assert not [c for c in axes.collections if isinstance(c, PathCollection)]
    assert len(cells.get_offsets()) <= len(PLANE) and cells.get_rasterized()
    seen = [p for p in cells.get_offsets() if np.abs(PLANE - p).max(1).min() < 0.5]
    assert len(seen) == len(cells.get_offsets())  # each hexagon holds points
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[::-1, :, :3]
    column, row = np.round(axes.transData.transform(PLANE)).astype(int).T
    assert np.mean(image[row, column].min(1) < 250) > 0.95  # and stands where they are


def test_means_by_component_are_the_programs(fits):
    (own,) = grouped_sites(fits["classes"].model, fits["classes"].params)
    np.testing.assert_allclose(
        conditional_means(fits["classes"].model, fits["classes"].params, own)[:, 0],
        fits["classes"].params["p"],
    )
    (own,) = grouped_sites(fits["lines"].model, fits["lines"].params)
    b = fits["lines"].params["b"]
    means = conditional_means(fits["lines"].model, fits["lines"].params, own)
    np.testing.assert_allclose(means[..., 0], b[:, :1] + b[:, 1:] * COVARIATE, rtol=1e-9)
    np.testing.assert_array_equal(own.values[:, 0], RESPONSE)
    (own,) = grouped_sites(fits["chain"].model, fits["chain"].params)
    assert own.scan and own.shape == (80,) and own.posterior.shape == (80, 2)


def test_a_profile_has_its_intervals(fits):
    fit = fits["classes"]
    figure = fit.plot_components()
    (axes,) = figure.axes
    segments = np.concatenate([c.get_segments() for c in axes.collections])
    low, high = segments[:, 0, 1].reshape(2, 3), segments[:, 1, 1].reshape(2, 3)
    assert np.all((low <= fit.params["p"]) & (fit.params["p"] <= high))
    assert low.min() > 0 and high.max() < 1
    error = fit.standard_errors().filter(like="p[").to_numpy().reshape(2, 3)
    inner = (fit.params["p"] > 0.15) & (fit.params["p"] < 0.85)
    np.testing.assert_allclose((high - low)[inner], 2 * 1.96 * error[inner], rtol=0.2)
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels[0].startswith("z = no (") and labels[1].startswith("z = yes (")


def test_a_chain_stands_over_its_decoded_states(fits):
    fit = fits["chain"]
    figure = fit.plot_components()
    spans = [p for p in figure.axes[0].patches if p.get_width() > 0]
    decoded = fit.decode()["z"]
    changes = np.flatnonzero(np.diff(decoded)) + 1
    np.testing.assert_allclose(sorted(p.get_x() for p in spans), [1899.5, *(1899.5 + changes)])
    assert figure.axes[-1].get_xlabel() == "year"
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), np.arange(1900, 1980))


def test_a_curve_is_drawn_against_its_covariate(fits):
    (axes,) = fits["lines"].plot_components().axes
    assert axes.get_xlabel() == "speed (m/s)"
    for line, (a, b) in zip(axes.lines, fits["lines"].params["b"], strict=True):
        np.testing.assert_allclose(line.get_ydata(), a + b * line.get_xdata())


def test_names_of_axes():
    def program(x, frame):
        """Text: not a line about an argument.

        Args:
            x: size (cm), weight [kg, wet], age.
            frame: what is known
        """
        b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
        mean = jnp.asarray(frame) @ b
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mean[:, None], 1.0).expand([4, 3]).to_event(1), obs=x)

    frame = pd.DataFrame({"dose": [0.0, 1, 2, 4], "fixed": 1.0})
    model = Model(program, np.ones((4, 3)) * np.arange(4)[:, None], frame)
    assert column_labels(model, "x", 3) == [
        "size (cm)",
        "weight [kg, wet]",
        "age",
    ] or column_labels(model, "x", 3) == [f"x[{i}]" for i in range(3)]
    assert label_of(model, "frame") == "what is known" and label_of(model, "b") == "b"
    assert [c.label for c in covariates_of(model, 4, [])][-1:] == ["dose"]
    assert value_labels(model, "z", 2) == ["z = 0", "z = 1"]
    places, name = step_axis(model, 4, "time")
    assert name == "step" and places.tolist() == [0, 1, 2, 3]


def test_a_predictive_check_shows_what_is_wrong(fits):
    """The share of ones within bins of the covariate, against draws of a good and of a wrong slope."""
    model = fits["slopes"].model
    inside = []
    for b in (fits["slopes"].params["b"], -3.0):
        fit = fit_em(model, fixed={"b": b}, progress=False) if b == -3.0 else fits["slopes"]
        axes = fit.plot_predictive_check().axes[0]
        assert axes.get_xlabel() == "x" and "share of 1" in axes.get_ylabel()
        bands = np.array(axes.collections[0].get_segments())
        dots = next(line for line in axes.lines if line.get_marker() == "o").get_ydata()
        inside.append(np.mean((bands[:, 0, 1] <= dots) & (dots <= bands[:, 1, 1])))
    assert inside[0] > 0.7 and inside[1] < 0.4


def test_columns_and_lags_have_panels_of_their_own(fits):
    assert [a.get_xlabel() for a in fits["space"].plot_predictive_check().axes] == [
        "x[0]",
        "x[1]",
        "x[2]",
    ]
    figure = fits["chain"].plot_predictive_check()
    assert [a.get_xlabel() for a in figure.axes] == ["x", "lag"]
    x = SERIES - SERIES.mean()
    dots = figure.axes[1].lines[1].get_ydata()
    assert dots[0] == pytest.approx((x[1:] * x[:-1]).sum() / (x**2).sum())


def test_a_selection_has_error_bars_and_counts():
    """And no error bar where elpd is blank."""
    x = np.concatenate([RNG.normal(0, 1, 60), RNG.normal(7, 1, 60)])
    chosen = select(
        find_model("galaxies").program, x, K=range(1, 4), starts=4, loo=True, progress=False
    )
    figure = chosen.plot()
    assert_clear(figure)
    criteria, elpd, starts = figure.axes
    known = chosen.table[chosen.table["elpd_loo"].notna()]
    bars = [s for c in elpd.collections for s in c.get_segments() if len(s)]
    assert len(known) >= 2
    for bar, (_, row) in zip(bars, known.iterrows(), strict=True):
        np.testing.assert_allclose(bar[:, 1], row["elpd_loo"] + np.array([-1, 1]) * row["se"])
    reached = [int(t.get_text()) for t in starts.texts]
    assert reached == [int(told.split()[0]) for told in chosen.table["reached"]]
    assert min(line.get_ydata().min() for line in criteria.lines) == pytest.approx(0)


def test_long_tables_say_what_is_left_out():
    def many(x):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([50]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)

    fit = fit_mle(Model(many, RNG.normal(size=(20, 50))), progress=False)
    figures = comparison_figures(compare({"MLE": fit}))
    assert "the first 30 of 50 scalars" in figures["estimates"][0].axes[0].get_title("left")
    assert "the first 6 of 50 columns" in figures["predictive_check"][0].get_suptitle()
    frame = Frame.of(pd.DataFrame({"a": range(50)}))
    assert len(frame.first.rows) == 30 and len(frame.rest.rows) == 20
    assert Frame.of(pd.DataFrame({"a": range(40)})).rest is None


class Page(HTMLParser):
    """The anchors of a page, its links, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.open, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.ids += [known["id"]] if "id" in known else []
        self.links += [known["href"]] if "href" in known else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_the_report_reads_well(galaxies_em, small_nuts, tmp_path):
    found = compare({"EM": galaxies_em, "NUTS": small_nuts})
    found.warnings += ["EM: try more.", "NUTS: try more.", "EM, NUTS: so it is."]
    text = write_report(
        found, tmp_path / "r.html", "Galaxies", "pp-mlem compare", pictures=[]
    ).read_text()
    page = Page(text)
    assert not page.open and {f"#{i}" for i in page.ids} >= set(page.links) and len(page.links) > 5
    assert "EM, NUTS: try more." in page.text and page.text.count("try more.") == 1
    assert (
        "prefers-color-scheme: dark" in text
        and "@media print" in text
        and "max-width: 640px" in text
    )
    for python in (
        ".differences",
        "elpd_loo",
        "compile_seconds",
        "ess_per_second",
        "below_best",
        "log_likelihood",
    ):
        assert python not in page.text
    for name, value, error in zip(
        galaxies_em.scalar_names,
        galaxies_em.estimates(),
        galaxies_em.standard_errors(),
        strict=True,
    ):
        assert name in page.text and with_error(value, error) in page.text


def test_pictures_of_a_report_follow_the_readers_colours(fits, tmp_path):
    import base64

    text = write_report(compare({"EM": fits["chain"]}), tmp_path / "r.html").read_text()
    pictures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)
    assert len(pictures) == len(comparison_figures(compare({"EM": fits["chain"]})))
    for picture in map(base64.b64decode, pictures):
        ElementTree.fromstring(picture)
        assert b"prefers-color-scheme: dark" in picture and b'[style*="fill: #1f2933"]' in picture


def test_merged_warnings():
    told = merged_warnings(
        ["EM: a: b.", "x: c.", "MLE: a: b.", "plain", "EM: a: b."], ["EM", "MLE"]
    )
    assert told == [("EM, MLE", "a: b."), ("", "x: c."), ("", "plain")]


@pytest.mark.parametrize(
    "value,error,text",
    [
        (9.7101, 0.1634, "9.71 ± 0.16"), (1527.5, 17.69, "1528 ± 18"), (-1e-9, 0.057, "0.000 ± 0.057"),
        (3482258.634, 0.0012, "3482258.6340 ± 0.0012"), (np.nan, 1.0, "–"), (0.5, np.nan, "0.5 ± –"),
        (2.5e9, 3e7, "2.500e+09 ± 3.0e+07"), (1e-12, 2e-12, "1.0e-12 ± 2.0e-12"), (99.96, 0.098, "99.960 ± 0.098"),
    ],
)  # fmt: skip
def test_an_estimate_is_written_to_the_digits_of_its_error(value, error, text):
    assert with_error(value, error) == text


def test_a_picture_that_fails_costs_no_other(fits):
    def picture(fit):
        raise KeyError("sky")

    with pytest.warns(UserWarning, match="pictures: model cannot be drawn .KeyError: 'sky'"):
        figures = comparison_figures(compare({"EM": fits["chain"]}), picture)
    assert {"estimates", "optima"} <= set(figures)


def test_wrong_sites_are_refused(fits):
    with pytest.raises(
        ValueError, match=r"plot_components: received site 'y'; the observed sites are \['x'\]"
    ):
        fits["plane"].plot_components("y")
    assert fits["levels"].plot_components() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "eight_schools", "growth_curves", "incomplete_normal", "local_level", "meta_analysis", "naive_bayes", "portfolio",
        "structural_equations", "structural_time_series", "topics",
    ],
)  # fmt: skip
def test_models_draw_their_own_picture(name):
    shelf = find_model(name)
    model = Model(shelf.program, **shelf.data(), **shelf.options)
    fit = fit_map(model, starts=1, max_iter=100, progress=False)
    figures = comparison_figures(compare({"MAP": fit}), shelf.picture)
    assert list(figures)[0] == "picture" and "components" not in figures
    assert_clear(figures["picture"][0])
