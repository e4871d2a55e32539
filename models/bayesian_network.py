"""A Bayesian network (Asia): which disease is behind the shortness of breath, when few were diagnosed?

asia -> tub,  smoke -> lung,  smoke -> bronc,  either = tub or lung,  either -> xray,  (either, bronc) -> dysp

Tuberculosis, lung cancer and bronchitis are latent, but for the patients who were diagnosed; visits to Asia,
smoking, X-rays and shortness of breath (dyspnoea) are observed of all. Each node has a probability for each
state of its parents: these are the parameters. The E-step is exact inference in the network, by elimination
of variables; the M-step divides expected counts, in closed form. Model(..., observe={"tub": ...}) hands over
what is known, with -1 where it is not.

asia: was in Asia
smoke: smokes
xray: shadow on the X-ray
dysp: short of breath

Data: 20,000 patients, one in ten of them diagnosed, drawn from the tables of Lauritzen & Spiegelhalter (1988),
doi:10.1111/j.2517-6161.1988.tb01721.x, with a visit to Asia by one in five instead of one in a hundred; patients
with the same record are one row with their number as case weight. The likelihood was checked against the
sum over all diseases. EM for such networks: Lauritzen (1995), doi:10.1016/0167-9473(93)E0056-A.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PATIENTS, DIAGNOSED = 20_000, 0.1
truth = {  # probability of "yes", by the states (no, yes) of the parents
    "p_asia": 0.2,
    "p_smoke": 0.5,
    "p_tub": np.array([0.01, 0.05]),
    "p_lung": np.array([0.01, 0.1]),
    "p_bronc": np.array([0.3, 0.6]),
    "p_xray": np.array([0.05, 0.98]),
    "p_dysp": np.array([[0.1, 0.8], [0.7, 0.9]]),
}


def model(asia, smoke, xray, dysp, count):
    p_asia = numpyro.sample("p_asia", dist.Beta(1, 1))
    p_smoke = numpyro.sample("p_smoke", dist.Beta(1, 1))
    pair = dist.Beta(1, 1).expand([2]).to_event(1)
    p_tub, p_lung, p_bronc, p_xray = (
        numpyro.sample(f"p_{child}", pair) for child in ("tub", "lung", "bronc", "xray")
    )
    p_dysp = numpyro.sample("p_dysp", dist.Beta(1, 1).expand([2, 2]).to_event(2))
    with numpyro.plate("records", len(asia)), numpyro.handlers.scale(scale=count):
        numpyro.sample("asia", dist.Bernoulli(p_asia), obs=asia)
        numpyro.sample("smoke", dist.Bernoulli(p_smoke), obs=smoke)
        tub = numpyro.sample("tub", dist.Bernoulli(p_tub[asia]))
        lung = numpyro.sample("lung", dist.Bernoulli(p_lung[smoke]))
        bronc = numpyro.sample("bronc", dist.Bernoulli(p_bronc[smoke]))
        either = jnp.maximum(tub, lung)
        numpyro.sample("xray", dist.Bernoulli(p_xray[either]), obs=xray)
        numpyro.sample("dysp", dist.Bernoulli(p_dysp[either, bronc]), obs=dysp)


def records(seed=0):
    """The distinct records of the patients, -1 where a disease was not looked for, and their numbers."""
    rng = np.random.default_rng(seed)
    draw = lambda p: (rng.uniform(size=PATIENTS) < p).astype(int)  # noqa: E731
    asia, smoke = draw(truth["p_asia"]), draw(truth["p_smoke"])
    tub, lung = draw(truth["p_tub"][asia]), draw(truth["p_lung"][smoke])
    bronc, either = draw(truth["p_bronc"][smoke]), np.maximum(tub, lung)
    xray, dysp = draw(truth["p_xray"][either]), draw(truth["p_dysp"][either, bronc])
    known = draw(DIAGNOSED) == 1
    diseases = np.where(known, [tub, lung, bronc], -1)
    rows, count = np.unique([asia, smoke, xray, dysp, *diseases], axis=1, return_counts=True)
    return dict(zip(("asia", "smoke", "xray", "dysp", "tub", "lung", "bronc"), rows)), count


RECORDS, COUNT = records()
options = {"observe": {name: RECORDS[name] for name in ("tub", "lung", "bronc")}}


def data():
    seen = {name: RECORDS[name] for name in ("asia", "smoke", "xray", "dysp")}
    return {**seen, "count": COUNT}


def diagnosis(params, smoke, xray, dysp, asia=0):
    """P(tub), P(lung), P(bronc) given what is known of a patient, summed over the eight states."""
    p = {name: np.asarray(value) for name, value in params.items()}
    weight = np.zeros((2, 2, 2))
    for tub, lung, bronc in np.ndindex(2, 2, 2):
        either = max(tub, lung)
        nodes = [
            (tub, p["p_tub"][asia]), (lung, p["p_lung"][smoke]), (bronc, p["p_bronc"][smoke]),
            (xray, p["p_xray"][either]), (dysp, p["p_dysp"][either, bronc]),
        ]  # fmt: skip
        weight[tub, lung, bronc] = np.prod([chance if yes else 1 - chance for yes, chance in nodes])
    weight /= weight.sum()
    return weight[1].sum(), weight[:, 1].sum(), weight[:, :, 1].sum()


def picture(fit):
    """The network with its probabilities, and the diseases of a smoker by X-ray and shortness of breath."""
    from matplotlib.figure import Figure

    p = {name: np.asarray(value) for name, value in fit.params.items()}
    place = {
        "asia": (0, 3), "smoke": (2.5, 3), "tub": (0, 2), "lung": (1.5, 2), "bronc": (3.2, 2),
        "either": (0.75, 1), "xray": (0, 0), "dysp": (2.2, 0),
    }  # fmt: skip
    arrows = (
        "asia-tub smoke-lung smoke-bronc tub-either lung-either either-xray either-dysp bronc-dysp"
    )
    figure = Figure(figsize=(9.4, 4.6), layout="constrained")
    graph, bars = figure.subplots(1, 2, width_ratios=[1.25, 1])
    for arrow in arrows.split():
        start, end = (place[node] for node in arrow.split("-"))
        graph.annotate(
            "",
            end,
            start,
            arrowprops={"arrowstyle": "-|>", "color": "0.5", "shrinkA": 18, "shrinkB": 26},
        )
    for node, (x, y) in place.items():
        table = "tub or lung" if node == "either" else np.array2string(p[f"p_{node}"], precision=3)
        hidden = node in ("tub", "lung", "bronc", "either")
        box = {"boxstyle": "round", "fc": "#ffffff" if hidden else "#dde6f2", "ec": "0.4"}
        graph.text(x, y, f"{node}\n{table}", ha="center", va="center", fontsize=8, bbox=box)
    graph.set_xlim(-0.8, 4.0)
    graph.set_ylim(-0.5, 3.5)
    graph.set_axis_off()
    graph.set_title("P(yes) by the states (no, yes) of the parents", fontsize=10)
    known = [(xray, dysp) for xray in (0, 1) for dysp in (0, 1)]
    chances = np.array([diagnosis(p, 1, *signs) for signs in known])
    for j, name in enumerate(("tub", "lung", "bronc")):
        bars.bar(np.arange(4) + 0.27 * (j - 1), chances[:, j], 0.25, color=f"C{j}", label=name)
    signs = [f"X-ray {'yes' if a else 'no'}\ndysp {'yes' if b else 'no'}" for a, b in known]
    bars.set_xticks(range(4), signs, fontsize=9)
    bars.set_ylim(0, 1)
    bars.set_ylabel("probability of the disease")
    bars.set_title("A smoker who was not in Asia", fontsize=10)
    bars.legend(frameon=False)
    figure.suptitle(f"Asia, {fit.method}")
    return figure
