"""Clustering by a mixture of normals: three species of iris, found without their names.

z_n ~ Categorical(w),  x_n ~ MultivariateNormal(mu[z_n], covariance[z_n])

w, mu and covariances are parameters, z (the cluster) is latent. covariance="full" gives each cluster an ellipsoid
of its own (mclust's VVV), "tied" the same to all (EEE), "diag" one along the axes (VVI): 44, 24 and 26
parameters for K=3. Their number is chosen by `select`, as in `pp-mlem select clustering --over K=1:5`: BIC
prefers two clusters, since versicolor and virginica overlap. EM's M-step is in closed form. The priors
have the scale of the data and vanish where a cluster collapses or is empty, so that MAP and NUTS do not go there.

x: sepal length (cm), sepal width (cm), petal length (cm), petal width (cm)

Data: scikit-learn's iris (Fisher 1936, doi:10.1111/j.1469-1809.1936.tb02137.x); data("wine") has its 178 wines by 13
standardised measurements, data("digits") the first ten principal components of its digits. For K=3 log L is
-180.185 with full covariances and -256.354 with a tied one (Mplus, as printed by the R package tidyLPA). The
picture tells the adjusted Rand index against the species: Hubert & Arabie (1985), doi:10.1007/BF01908075.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

published = {"log_likelihood": (-180.185, 5e-4)}


def model(x, K=3, covariance="full"):
    d = x.shape[1]
    centre, spread = jnp.nanmean(x, 0), jnp.nanstd(x, 0)  # the scale of the priors
    w = numpyro.sample("w", dist.Dirichlet(5 * jnp.ones(K)))
    shape = dist.Wishart(d + 2.0, scale_matrix=20 * jnp.eye(d))
    if covariance == "tied":
        precision = numpyro.sample("precision", shape)
    with numpyro.plate("clusters", K):
        mu = numpyro.sample("mu", dist.Normal(centre, 2 * spread).to_event(1))
        if covariance == "full":
            precision = numpyro.sample("precision", shape)
        elif covariance == "diag":
            sigma = numpyro.sample("sigma", dist.LogNormal(-1, 1).expand([d]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        if covariance == "diag":
            law = dist.Normal(mu[z], sigma[z]).to_event(1)
        else:
            own = precision[z] if covariance == "full" else precision
            law = dist.MultivariateNormal(mu[z], precision_matrix=own)
        numpyro.sample("x", law, obs=x)


def data(which="iris"):
    return {"x": measured(which)[0]}


def measured(which):
    """The rows of a data set of scikit-learn, their classes, and the names of these."""
    from sklearn import datasets
    from sklearn.decomposition import PCA

    table = getattr(datasets, f"load_{which}")()
    x = table.data
    if which == "wine":
        x = (x - x.mean(0)) / x.std(0)
    elif which == "digits":
        x = PCA(10, random_state=0).fit_transform(x / 16)
    return x, table.target, [str(name) for name in table.target_names]


def picture(fit):
    """The rows in their two principal directions, in the colours of clusters, with ellipses of two sd."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse
    from sklearn.metrics import adjusted_rand_score

    (x,) = fit.model.observed_values().values()
    cluster = np.ravel(fit.decode()["z"]).astype(int)
    p = {name: np.asarray(value) for name, value in fit.params.items()}
    K = len(p["w"])
    if "sigma" in p:
        covariance = np.stack([np.diag(s**2) for s in p["sigma"]])
    else:
        covariance = np.linalg.inv(np.broadcast_to(p["precision"], (K, *p["precision"].shape[-2:])))
    centre = np.nanmean(x, 0)
    shown = np.linalg.svd(np.nan_to_num(x - centre), full_matrices=False)[2][:2]  # two directions
    figure = Figure(figsize=(7.4, 4.8), layout="constrained")
    axes = figure.subplots()
    truth, names = None, []
    for which in ("iris", "wine", "digits"):
        known, classes, called = measured(which)
        if known.shape == x.shape and np.allclose(known, x):
            truth, names = classes, called
    plane = np.nan_to_num(x - centre) @ shown.T
    for c in range(1 if truth is None else len(names)):
        rows = np.ones(len(x), bool) if truth is None else truth == c
        colours = [f"C{k % 10}" for k in cluster[rows]]
        marks = {"marker": "osD^v<>p*X"[c % 10], "s": 18, "alpha": 0.75, "lw": 0}
        axes.scatter(*plane[rows].T, c=colours, **marks)
        if truth is not None:
            axes.scatter([], [], c="0.4", label=names[c], **marks)
    for k in range(K):
        values, vectors = np.linalg.eigh(shown @ covariance[k] @ shown.T)
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        width, height = 4 * np.sqrt(values[::-1])
        middle = (p["mu"][k] - centre) @ shown.T
        axes.add_patch(
            Ellipse(middle, width, height, angle=angle, fc="none", ec=f"C{k % 10}", lw=1.6)
        )
    title = f"{K} clusters of {', '.join(map(str, np.bincount(cluster, minlength=K)))} rows, {fit.method}"
    if truth is not None:
        title += f"\nadjusted Rand index against the classes (marks): {adjusted_rand_score(truth, cluster):.3f}"
        figure.legend(loc="outside right center", frameon=False)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("first principal direction")
    axes.set_ylabel("second principal direction")
    return figure
