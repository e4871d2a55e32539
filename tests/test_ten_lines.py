"""A new user's ten lines, from a CSV to labels, a picture, a table."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd


def test_ten_lines(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    long = rng.uniform(size=200) < 0.65
    rows = np.where(long[:, None], rng.normal([4.3, 80], [0.4, 6], (200, 2)),
                    rng.normal([2.0, 55], [0.3, 6], (200, 2)))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(rows, columns=["eruptions", "waiting"]).to_csv("faithful.csv", index=False)

    # --- ten lines ---
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from pp_mlem import Model, fit_em

    data = pd.read_csv("faithful.csv")

    def clusters(data, K=2):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
        with numpyro.plate("columns", 2), numpyro.plate("cluster", K):
            mu = numpyro.sample("mu", dist.Normal(0, 100))
            sd = numpyro.sample("sd", dist.LogNormal(0, 2))
        with numpyro.plate("rows", len(data)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("x", dist.Normal(mu[z], sd[z]).to_event(1), obs=data.values)

    fit = fit_em(Model(clusters, data), seed=0)
    data["cluster"] = fit.decode()["z"]
    fit.plot_components().savefig("fit.png")
    fit.summary().to_latex("table.tex")
    # --- to here ---

    agree = (data["cluster"].to_numpy() == long).mean()
    assert max(agree, 1 - agree) > 0.97
    assert "mu[0,eruptions]" in fit.summary().index
    assert (tmp_path / "fit.png").stat().st_size > 5000
    assert "mu[1,waiting]" in (tmp_path / "table.tex").read_text()
