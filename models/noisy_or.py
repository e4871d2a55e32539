"""Noisy-or: three diseases, each of which may bring about some of eight findings, alone or together.

z_nk ~ Bernoulli(prevalence_k),  P(y_nj = 0) = (1 - leak_j) prod_k (1 - q_kj)^z_nk

A disease k that a patient has brings about finding j with probability q_kj, apart from all others; a finding without
any of them comes with probability leak_j. prevalence, leak, and a q for each link that medicine knows are
parameters; the diseases are latent, and all eight combinations of them are summed out for each patient. Which
disease is which follows from the links. The findings add up on no scale that has sums, so that EM's M-step for q
and leak is Newton's; prevalence is a share, in closed form.

y: cough, sneezing, sore throat, hoarseness, fever, fatigue, itching, tears

Data: 500 patients, drawn from the program at `truth`. Pearl (1988), Probabilistic Reasoning in Intelligent
Systems, doi:10.1016/C2009-0-27609-4; Shwe et al. (1991), doi:10.1055/s-0038-1634846. Checked against the sum over
all eight combinations by hand.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

FINDINGS = ["cough", "sneezing", "throat", "hoarse", "fever", "fatigue", "itching", "tears"]
DISEASES = ["cold", "flu", "allergy"]
LINKS = [
    ("cold", "cough"), ("cold", "sneezing"), ("cold", "throat"), ("cold", "hoarse"),
    ("flu", "cough"), ("flu", "throat"), ("flu", "fever"), ("flu", "fatigue"),
    ("allergy", "sneezing"), ("allergy", "fatigue"), ("allergy", "itching"), ("allergy", "tears"),
]  # fmt: skip
CAUSE = np.array([DISEASES.index(k) for k, _ in LINKS])
EFFECT = np.array([FINDINGS.index(j) for _, j in LINKS])

options = {
    "coords": {
        "diseases": DISEASES,
        "findings": FINDINGS,
        "links": [f"{disease} {finding}" for disease, finding in LINKS],
    }
}

truth = {
    "prevalence": np.array([0.3, 0.2, 0.25]),
    "leak": np.array([0.08, 0.08, 0.06, 0.06, 0.06, 0.12, 0.08, 0.06]),
    "q": np.array([0.6, 0.7, 0.8, 0.6, 0.7, 0.4, 0.7, 0.8, 0.7, 0.3, 0.8, 0.7]),
}


def model(y):
    with numpyro.plate("diseases", len(DISEASES)):
        prevalence = numpyro.sample("prevalence", dist.Beta(1, 2))
    with numpyro.plate("findings", len(FINDINGS)):
        leak = numpyro.sample("leak", dist.Beta(1, 9))
    with numpyro.plate("links", len(LINKS)):
        q = numpyro.sample("q", dist.Beta(2, 2))
    fails = jnp.ones((len(DISEASES), len(FINDINGS))).at[CAUSE, EFFECT].set(1 - q)
    with numpyro.plate("patients", y.shape[0]):
        none = 1 - leak
        for k, disease in enumerate(DISEASES):
            z = numpyro.sample(disease, dist.Bernoulli(prevalence[k]))
            none = none * jnp.where(z[..., None] == 1, fails[k], 1.0)
        numpyro.sample("y", dist.Bernoulli(1 - none).to_event(1), obs=y)


def data(seed=0, patients=500):
    rng = np.random.default_rng(seed)
    z = rng.random((patients, len(DISEASES))) < truth["prevalence"]
    q = np.zeros((len(DISEASES), len(FINDINGS)))
    q[CAUSE, EFFECT] = truth["q"]
    none = (1 - truth["leak"]) * np.prod(np.where(z[..., None], 1 - q, 1.0), 1)
    return {"y": (rng.random(none.shape) > none).astype(int)}


def picture(fit):
    """The links with their strengths, the leaks below them, and how common each disease is."""
    from matplotlib.figure import Figure

    p = fit.params
    table = np.full((len(DISEASES) + 1, len(FINDINGS)), np.nan)
    table[CAUSE, EFFECT] = np.asarray(p["q"])
    table[-1] = np.asarray(p["leak"])
    names = [f"{k} ({100 * float(w):.0f}%)" for k, w in zip(DISEASES, p["prevalence"])]
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for k, j in np.argwhere(~np.isnan(table)):
        color = "white" if table[k, j] > 0.6 else "0.2"
        axes.text(j, k, f"{table[k, j]:.2f}", ha="center", va="center", color=color)
    axes.axhline(len(DISEASES) - 0.5, color="0.3", lw=1)
    axes.set_xticks(range(len(FINDINGS)), FINDINGS, rotation=30)
    axes.set_yticks(range(len(DISEASES) + 1), [*names, "none (leak)"])
    axes.set_title(f"Which disease brings about which finding, {fit.method}")
    figure.colorbar(image, label="probability")
    return figure
