"""Programs of NumPyro's own documentation: read, equal to NumPyro's log density summed over every
configuration of the latents, and fitted by everything; or refused with the reason."""

from __future__ import annotations

import itertools
import re
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from numpyro_programs import PROGRAMS, Case
from scan_programs import LawsKept

from pp_mlem import Model, compare, fit_em, fit_mle, fit_nuts

LIMIT = 2**17  # configurations of the latents
FITTED = {n: c for n, c in PROGRAMS.items() if not c.refused}
REFUSED = {n: c for n, c in PROGRAMS.items() if c.refused}
QUICK = {
    "ar2, conditioned scan", "capture recapture, by time", "discrete imputation", "n-mixture",
    "first state by a None carry", "item difficulty, estimated", "a param given as a number", "one observation",
    "chain in a python loop, data in a list", "conditioned from outside", "scoped halves",
}  # fmt: skip


def each(names):
    """Names as parameters of a test; what a plain run leaves to the long one is marked."""
    slow = pytest.mark.slow
    return [pytest.param(n, marks=() if n in QUICK or n in REFUSED else slow) for n in names]


def copied(case: Case):
    """Fresh arguments: a program may write into a list that it is given."""
    return [list(a) if isinstance(a, list) else a for a in case.args]


def on_device(case: Case) -> Case:
    """The arrays as JAX's, for programs that index them by a step; integers as wide as the states
    that they are carried with."""

    def one(a):
        if not isinstance(a, np.ndarray):
            return a
        return jnp.asarray(a, jnp.int32 if a.dtype.kind == "i" else None)

    def place(tree):
        return jax.tree.map(one, tree)

    return replace(case, args=place(case.args), kwargs=place(case.kwargs))


def build(case: Case) -> Model:
    return Model(case.program, *copied(case), **case.options, **case.kwargs)


def latent_cells(case: Case, params: dict) -> dict[str, tuple[tuple, np.ndarray, np.ndarray]]:
    """Shape, values and mask of every discrete unobserved site, told by NumPyro itself."""
    with jax.enable_x64(False):  # NumPyro's scans draw states of another type than int32 carries
        case = on_device(case)
        values = {k: jnp.asarray(np.asarray(v), jnp.float32) for k, v in params.items()}
        seeded = handlers.seed(handlers.substitute(case.program, values), jax.random.key(0))
        trace = handlers.trace(seeded).get_trace(*copied(case), **case.kwargs)
    found = {}
    for name, site in trace.items():
        if site["type"] != "sample" or site["is_observed"] or name in params:
            continue
        if not getattr(site["fn"].support, "is_discrete", False):
            continue
        shape = jnp.shape(site["value"])
        values = np.asarray(site["fn"].enumerate_support(expand=False)).ravel()
        mask = getattr(site["fn"], "_mask", True)
        found[name] = shape, values, np.broadcast_to(np.asarray(mask), shape)
    return found


def enumerated_density(case: Case, params: dict, whole: type) -> float:
    """log sum over latents of NumPyro's log density. A latent that a mask hides keeps its law,
    which sums to one: so animals are alive at their first capture (see `LawsKept`)."""
    cells = latent_cells(case, params)
    free = [(n, i, v) for n, (shape, v, _) in cells.items() for i in np.ndindex(*shape)]
    count = int(np.prod([float(len(v)) for _, _, v in free] or [1.0]))
    assert count <= LIMIT, count
    rows = np.array(list(itertools.product(*[range(len(v)) for _, _, v in free])), int)
    rows = rows.reshape(count, len(free))

    def density(chosen: dict) -> jax.Array:
        with LawsKept():
            return log_density(
                case.program, tuple(copied(case)), case.kwargs, {**params, **chosen}
            )[0]

    batch, position = {}, 0
    for name, (shape, values, _) in cells.items():
        size = int(np.prod(shape))
        chosen = values[rows[:, position : position + size]].reshape(count, *shape)
        batch[name] = chosen.astype(whole)
        position += size
    if not cells:
        return float(jax.jit(density)({}))
    logs = np.asarray(jax.lax.map(density, batch, batch_size=min(count, 512)))
    total = np.logaddexp.reduce(logs)
    return float(total)


def numpyros_answer(case: Case, params: dict) -> float:
    """`enumerated_density` with arguments and states of the types that the program asks for."""
    ways = [(case, np.int32), (on_device(case), np.int32), (on_device(case), np.int64)]
    for way, whole in ways:
        try:
            return enumerated_density(way, params, whole)
        except (jax.errors.TracerArrayConversionError, TypeError) as error:
            why = error
    raise why


@pytest.mark.parametrize("name", each(FITTED))
def test_equals_numpyros_own_log_density(name):
    case = FITTED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = build(case)
        rng = np.random.default_rng(3)
        with jax.enable_x64(True):
            vector = jnp.asarray(rng.uniform(-1, 1, model.space.size))
            params = model.space.constrain(vector)
            plain = replace(case, program=case.reference or case.program)
            expected = numpyros_answer(plain, params)
        found = model.log_likelihood(params) + model.log_prior(params)
    assert np.isfinite(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    own = model.pointwise_log_likelihood(params)
    assert own.shape == model.unit_weights().shape
    np.testing.assert_allclose(own.sum(), model.log_likelihood(params), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", each(REFUSED))
def test_refused_with_the_reason(name):
    with pytest.raises((ValueError, TypeError), match=re.escape(REFUSED[name].refused)):
        fit_em(build(REFUSED[name]), starts=1, progress=False)


def fitted(case: Case, sampled: bool) -> None:
    """Every question that a user asks first, of every method; raises where one has no answer."""
    model = build(case)
    str(model)
    fits = {
        "EM": fit_em(model, starts=2, max_iter=200, progress=False),
        "MLE": fit_mle(model, starts=2, max_iter=200, progress=False),
    }
    if sampled and case.nuts:
        fits["NUTS"] = fit_nuts(model, chains=2, warmup=30, draws=30, progress=False)
    for fit in fits.values():
        told, at_params = fit.log_likelihood, model.log_likelihood(fit.params)
        if fit.status == "not_finite":
            assert not np.isfinite(told)
        else:
            np.testing.assert_allclose(told, at_params, rtol=1e-8, atol=1e-8)
        fit.summary()
    str(compare(fits))
    model.posterior(fits["EM"].params), model.decode(fits["EM"].params)


# Compiles for minutes; benchmarks/programs.py fits it, and every other program, too.
COSTLY = {"sine-skewed angles"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for i, n in enumerate(FITTED) if i % 5 == 0 and n not in COSTLY]
)
def test_fitted_by_every_method(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted(FITTED[name], sampled=name in QUICK)
