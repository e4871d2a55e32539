"""Dawid and Skene's observers: five anaesthetists disagree, and nobody knows the truth.

c_n ~ Categorical(pi),  y_nr ~ Categorical(error[observer_r, c_n])

Is a patient fit for anaesthesia (1) up to unfit (4)? The true class c of each patient is latent and summed out;
pi and each observer's error rates, the probability of each answer for each true class, are parameters. It was among
the first uses of EM: in the E-step every patient is shared out among the classes, in the M-step, in closed form,
pi and the error rates are shares. An answer that an observer never gave to a class has a rate of zero, at the
edge, where it has no standard error (status "boundary"); the prior of MAP and NUTS, half an answer more of each,
keeps off the edge. The classes are exchangeable: which of them is "unfit" is told by the answers only, and the
picture puts them in the order of these.

y: answers, the first three by observer A at three times

Data: 45 patients, Dawid & Skene (1979), doi:10.2307/2346806, table 1. From each patient's shares of answers as first
guess, as they began, EM ends at log-likelihood -188.5234 with pi 0.400, 0.467, 0.089 and 0.044. No other of 120
random starts ends higher, and only one in six comes there: there are dozens of local optima.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.ops.indexing import Vindex

ANSWERS = """1111111 3333434 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343
1111111 2223212 1211111 1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111
1111111 2322222 1111111 1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233
3333432 1111111 1111111 1212111 2322222 1211111 2222222"""
OBSERVER = [0, 0, 0, 1, 2, 3, 4]

LEVELS = ["1", "2", "3", "4"]
options = {
    "dims": {"pi": "true"},
    "coords": {"observers": ["A", "B", "C", "D", "E"], "true": LEVELS},
}


def model(y, observer, C=4):
    pi = numpyro.sample("pi", dist.Dirichlet(2 * jnp.ones(C)))
    with numpyro.plate("observers", max(OBSERVER) + 1, dim=-2), numpyro.plate("true", C, dim=-1):
        error = numpyro.sample("error", dist.Dirichlet(1.5 * jnp.ones(C)))
    with numpyro.plate("patients", y.shape[0], dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi))
        with numpyro.plate("answers", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Categorical(Vindex(error)[observer, c, :]), obs=y)


def data():
    y = np.array([[int(answer) - 1 for answer in patient] for patient in ANSWERS.split()])
    return {"y": y, "observer": np.array(OBSERVER)}


def picture(fit):
    """Each observer's error rates, and the patients' probabilities of the four classes."""
    from matplotlib.figure import Figure
    from scipy.optimize import linear_sum_assignment

    error = np.asarray(fit.params["error"])
    weight = np.asarray(fit.params["pi"])
    _, order = linear_sum_assignment(
        -(error.mean(0) * weight[:, None]).T
    )  # the class of each answer
    member = np.squeeze(np.asarray(fit.posterior()["c"]))[:, order]
    error = error[:, order]
    figure = Figure(figsize=(11, 5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    panels = above.subplots(1, len(error), sharey=True)
    for k, (axes, rates) in enumerate(zip(panels, error)):
        axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
        for true, answer in np.ndindex(rates.shape):
            rate = rates[true, answer]
            color = "white" if rate > 0.6 else "0.2"
            axes.text(
                answer, true, f"{rate:.2f}", ha="center", va="center", fontsize=8, color=color
            )
        axes.set_xticks(range(4), LEVELS)
        axes.set_yticks(range(4), LEVELS)
        axes.set_title(f"observer {'ABCDE'[k]}")
        axes.set_xlabel("answer")
    panels[0].set_ylabel("true class")
    axes, bottom = below.subplots(), np.zeros(len(member))
    for k in range(member.shape[1]):
        axes.bar(
            range(1, len(member) + 1), member[:, k], 0.85, bottom, label=LEVELS[k], color=f"C{k}"
        )
        bottom += member[:, k]
    axes.set_xlim(0.4, len(member) + 0.6)
    axes.set_xlabel("patient")
    axes.set_ylabel("probability")
    axes.legend(title="true class", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"Error rates of the observers and classes of the patients, {fit.method}")
    return figure
