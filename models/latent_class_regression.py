"""Latent class regression: who cheats at college, and how the odds fall with the grades.

z_n ~ Categorical(softmax(0, x_n' b)),  y_nj ~ Bernoulli(p[z_n, j])

The classes are latent and summed out; p, the probability of each answer in each class, and b, the logits of the
classes other than the first for each covariate, are parameters. In EM p has a closed form, the share of each
answer among the people of a class, and b is a multinomial logistic regression of the expected classes, climbed by
Newton's method. Which class comes first is arbitrary: with the two of them exchanged the sign of b turns.

x: constant, grade point average (1 lowest to 5 highest band)
y: lied to avoid an exam, lied about a late paper, bought a paper or an exam, copied in an exam

Data: 315 students, Dayton (1998), Latent Class Scaling Analysis, doi:10.4135/9781412984720, as R's poLCA has
them (`cheating`; Linzer & Lewis 2011, doi:10.18637/jss.v042.i10), without the four who did not tell their
grades. Log-likelihood -429.6384 with two classes.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

ITEMS = ["exam", "paper", "fraud", "copied"]
STUDENTS = np.array([  # answers 0000, 0001, 0010, ..., 1111 by grade point average 1 to 5
    [51, 63, 35, 30, 24], [19, 18, 6, 2, 1], [0, 5, 1, 0, 1], [4, 0, 0, 0, 1],
    [4, 4, 4, 0, 1], [3, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 1, 0, 1, 0],
    [5, 4, 0, 0, 1], [2, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0],
    [4, 6, 1, 0, 0], [4, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0],
])  # fmt: skip

options = {
    "dims": {"b": ["covariate", "other"]},
    "coords": {"covariate": ["constant", "GPA"], "items": ITEMS},
}


def model(y, x, C=2):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([x.shape[1], C - 1]).to_event(2))
    with numpyro.plate("classes", C, dim=-2), numpyro.plate("items", y.shape[1], dim=-1):
        p = numpyro.sample("p", dist.Beta(1, 1))
    logits = jnp.pad(x @ b, ((0, 0), (1, 0)))  # of the first class zero
    with numpyro.plate("students", len(y)):
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        numpyro.sample("y", dist.Bernoulli(p[z]).to_event(1), obs=y)


def data():
    answers = np.array(list(np.ndindex(2, 2, 2, 2)))
    pattern, grade = np.repeat(np.indices(STUDENTS.shape).reshape(2, -1), STUDENTS.ravel(), axis=1)
    return {"y": answers[pattern], "x": np.column_stack([np.ones(len(grade)), grade + 1.0])}


published = {"log_likelihood": (-429.6384, 5e-5)}


def picture(fit):
    """What each class does, and the share of the classes by grade: the curve, and mean posterior probabilities."""
    from matplotlib.figure import Figure

    p, given = fit.params, fit.model.arguments
    x = np.asarray(dict(zip(given.names, given.dynamic))["x"])
    probability = np.asarray(p["p"])
    order = np.argsort(probability.sum(1))
    grades = np.linspace(x[:, 1].min(), x[:, 1].max(), 100)
    logits = np.column_stack(
        [np.zeros(100), np.column_stack([np.ones(100), grades]) @ np.asarray(p["b"])]
    )
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    member = np.asarray(fit.posterior()["z"])
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for rank, k in enumerate(order):
        color = f"C{rank}"
        left.plot(
            range(probability.shape[1]), probability[k], "o-", color=color, label=f"class {k}"
        )
        right.plot(grades, share[:, k], color=color)
        for grade in np.unique(x[:, 1]):
            here = x[:, 1] == grade
            right.scatter(grade, member[here, k].mean(), here.sum(), color=color, alpha=0.5, lw=0)
    left.set_xticks(range(probability.shape[1]), ITEMS)
    left.set_ylabel("probability of having done so")
    right.set_xlabel("grade point average")
    right.set_ylabel("share of the class")
    right.set_xticks(np.unique(x[:, 1]))
    for axes in (left, right):
        axes.set_ylim(-0.03, 1.03)
    left.legend()
    figure.suptitle(f"Classes, and their shares by grade (area: students), {fit.method}")
    return figure
