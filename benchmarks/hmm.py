"""Hidden Markov models: pp_mlem, through its NumPyro program, against hmmlearn, dynamax (where it
is installed) and NumPyro's own enumeration. Float64, same data, start and number of iterations.

Run: python benchmarks/hmm.py [iteration] [starts] [gradient] [nuts] [cold] [long]
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from hmmlearn.hmm import GaussianHMM
from numpyro.contrib.control_flow import scan

from pp_mlem import Model, fit_em

os.environ.setdefault("PP_MLEM_CACHE", "off")  # what is cold is compiled


def hmm(x, K):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("from", K):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("states", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    first = numpyro.sample("first", dist.Categorical(pi))
    numpyro.sample("x_first", dist.Normal(mu[first], sigma[first]), obs=x[0])

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x_t)
        return z, None

    scan(step, first, x[1:])


def draw(T, K, seed=0):
    rng = np.random.default_rng(seed)
    P = 0.9 * np.eye(K) + 0.1 / K
    z, states = 0, np.empty(T, int)
    for t, u in enumerate(rng.uniform(size=T)):
        z = z if u < 0.9 else rng.integers(K)
        states[t] = z
    x = 2.0 * states + rng.normal(size=T)
    start = {
        "pi": np.full(K, 1 / K),
        "P": 0.8 * np.eye(K) + 0.2 / K,
        "mu": 2.0 * np.arange(K) + rng.normal(size=K) * 0.3,
        "sigma": np.full(K, 1.5),
    }
    start["P"] /= start["P"].sum(1, keepdims=True)
    del P
    return x, start


def hmmlearn_fit(x, start, K, iterations, implementation):
    other = GaussianHMM(
        K, "diag", n_iter=iterations, tol=-np.inf, init_params="", implementation=implementation,
        min_covar=0.0, covars_prior=0.0, covars_weight=0.0, means_weight=0.0,
    )  # fmt: skip
    other.startprob_, other.transmat_ = start["pi"], start["P"]
    other.means_, other.covars_ = start["mu"][:, None], (start["sigma"] ** 2)[:, None]
    clock = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.fit(x[:, None])
    return time.perf_counter() - clock, other


def per_iteration(long, short, iterations):
    return (long - short) / (iterations - 1)


def iteration(T, K, floor, iterations=11, dynamax_floor=None):
    x, start = draw(T, K)
    model = Model(hmm, x, K)
    options = dict(init=start, accelerate=False, polish=False, tol=1e-300, progress=False)
    fit_em(model, max_iter=iterations, **options)
    ours, theirs = [], {"scaling": [], "log": []}
    for _ in range(5):
        clock = time.perf_counter()
        fit = fit_em(model, max_iter=iterations, **options)
        long = time.perf_counter() - clock
        clock = time.perf_counter()
        fit_em(model, max_iter=1, **options)
        ours.append(per_iteration(long, time.perf_counter() - clock, iterations))
        for name in theirs if K <= 8 else ("scaling",):
            long, other = hmmlearn_fit(x, start, K, iterations, name)
            short, _ = hmmlearn_fit(x, start, K, 1, name)
            theirs[name].append(per_iteration(long, short, iterations))
    best = min(np.median(v) for v in theirs.values() if v)
    gap = abs(fit.log_likelihood - other.score(x[:, None])) / abs(fit.log_likelihood)
    mine = float(np.median(ours))
    text = (
        f"EM iteration T={T:>7,} K={K:>2}: pp_mlem {1e3 * mine:7.2f} ms, hmmlearn "
        f"{1e3 * best:7.2f} ms, ratio {best / mine:4.1f} (asked {floor}), "
        f"log-likelihood apart {gap:.0e}"
    )
    if dynamax_floor is not None:
        seconds = dynamax_iteration(x, start, K, iterations)
        if seconds is None:
            text += "; dynamax is not installed"
        else:
            text += (
                f"; dynamax {1e3 * seconds:.2f} ms, ratio {seconds / mine:.1f} "
                f"(asked {dynamax_floor})"
            )
    print(text, flush=True)


def dynamax_iteration(x, start, K, iterations):
    try:
        from dynamax.hidden_markov_model import DiagonalGaussianHMM
    except ImportError:
        return None
    with jax.enable_x64(True):
        model = DiagonalGaussianHMM(K, 1)
        params, props = model.initialize(
            jax.random.key(0),
            initial_probs=jnp.asarray(start["pi"]),
            transition_matrix=jnp.asarray(start["P"]),
            emission_means=jnp.asarray(start["mu"])[:, None],
            emission_scale_diags=jnp.asarray(start["sigma"])[:, None],
        )
        data = jnp.asarray(x)[:, None]

        def fit(n):
            clock = time.perf_counter()
            jax.block_until_ready(model.fit_em(params, props, data, num_iters=n, verbose=False)[1])
            return time.perf_counter() - clock

        fit(1)
        return float(
            np.median([per_iteration(fit(iterations), fit(1), iterations) for _ in range(3)])
        )


def starts(T=10_000, K=4, count=20, iterations=50):
    x, _ = draw(T, K)
    rng = np.random.default_rng(1)
    model = Model(hmm, x, K)
    options = dict(starts=count, accelerate=False, polish=False, tol=1e-300, progress=False)
    fit_em(model, max_iter=iterations, **options)
    ours, theirs = [], []
    for _ in range(3):
        clock = time.perf_counter()
        fit_em(model, max_iter=iterations, **options)
        long = time.perf_counter() - clock
        clock = time.perf_counter()
        fit_em(model, max_iter=2, **options)
        ours.append((long - (time.perf_counter() - clock)) / (iterations - 2))
        total = 0.0
        for _ in range(count):
            start = draw(100, K, int(rng.integers(1000)))[1]
            long, _ = hmmlearn_fit(x, start, K, 11, "scaling")
            total += per_iteration(long, hmmlearn_fit(x, start, K, 1, "scaling")[0], 11)
        theirs.append(total)
    mine, other = float(np.median(ours)), float(np.median(theirs))
    print(
        f"{count} starts T={T:,} K={K}: pp_mlem {1e3 * mine:.1f} ms an iteration of all, hmmlearn "
        f"in turn {1e3 * other:.1f} ms, ratio {other / mine:.1f} (asked 1.3)",
        flush=True,
    )


def gradient(T, K, floor):
    x, start = draw(T, K)
    model = Model(hmm, x, K)
    with jax.enable_x64(True):
        params = {k: jnp.asarray(v) for k, v in start.items()}
        target = model.target(with_prior=True)
        vector = target.space.unconstrain(params)

        ours = jax.jit(jax.value_and_grad(lambda v, d: target.on(d).density(v)))

        def enumerated(v):
            from numpyro.contrib.funsor import config_enumerate, enum
            from numpyro.contrib.funsor import log_density as log_density_enum

            values = target.space.constrain(v)
            value, _ = log_density_enum(
                enum(config_enumerate(numpyro.handlers.seed(hmm, 0)), -2),
                (jnp.asarray(x), K),
                {},
                values,
            )
            return value + target.space.log_abs_det_jacobian(v)

        theirs = jax.jit(jax.value_and_grad(enumerated))

        def clock(function, *args):
            begin = time.perf_counter()
            value = jax.block_until_ready(function(*args))
            compile_seconds = time.perf_counter() - begin
            times = []
            for _ in range(7):
                begin = time.perf_counter()
                jax.block_until_ready(function(*args))
                times.append(time.perf_counter() - begin)
            return float(np.median(times)), compile_seconds, value

        mine, my_compile, a = clock(ours, vector, model.data)
        other, their_compile, b = clock(theirs, vector)
    print(
        f"gradient T={T:,} K={K}: pp_mlem {1e3 * mine:.2f} ms (compiled in {my_compile:.1f} s), "
        f"NumPyro enumerated {1e3 * other:.2f} ms ({their_compile:.1f} s), ratio "
        f"{other / mine:.1f} (asked {floor}), values apart {abs(a[0] - b[0]) / abs(b[0]):.0e}",
        flush=True,
    )


def nuts(T=2_000, K=3, warmup=500, draws=1_000):
    """Effective draws per second of a whole run, and of the same run a second time: the same seed,
    so the same draws, with whatever either side need not compile again."""
    from arviz_stats.base import array_stats
    from numpyro.contrib.funsor import config_enumerate, enum  # noqa: F401  (registers funsor)
    from numpyro.infer import MCMC, NUTS

    from pp_mlem import fit_nuts

    x, start = draw(T, K)

    def ordered(x, K):  # the labels are kept apart, so that both sides sample one mode
        mu = numpyro.sample(
            "mu", dist.TransformedDistribution(
                dist.Normal(0, 10).expand([K]).to_event(1),
                dist.transforms.OrderedTransform(),
            )
        )  # fmt: skip
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1).expand([K]).to_event(1))
        first = numpyro.sample("first", dist.Categorical(jnp.ones(K) / K))

        def step(z, x_t):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x_t)
            return z, None

        scan(step, first, x)

    def least(samples):
        columns = np.concatenate(
            [np.asarray(v).reshape(*np.shape(v)[:2], -1) for v in samples.values()], -1
        )
        moving = columns[..., columns.std((0, 1)) > 0]
        return min(
            float(array_stats.ess(moving[..., i], chain_axis=0, draw_axis=1))
            for i in range(moving.shape[-1])
        )

    def timed(run):
        clock = time.perf_counter()
        found = run()
        return time.perf_counter() - clock, found

    options = dict(chains=1, warmup=warmup, draws=draws, progress=False)
    # what a process pays once
    fit_nuts(Model(ordered, x, K), **{**options, "warmup": 2, "draws": 2})
    reading, model = timed(lambda: Model(ordered, x, K))
    ours = [timed(lambda: fit_nuts(model, **options).draws) for _ in range(2)]
    ours[0] = (ours[0][0] + reading, ours[0][1])
    begin = {k: start[k] for k in ("mu", "P", "sigma")}
    begin["mu"] = np.sort(begin["mu"])
    with jax.enable_x64(True):
        kernel = NUTS(
            config_enumerate(ordered), target_accept_prob=0.9, dense_mass=True,
            init_strategy=numpyro.infer.init_to_value(
                values={k: jnp.asarray(v) for k, v in begin.items()}
            ),
        )  # fmt: skip
        mcmc = MCMC(kernel, num_warmup=warmup, num_samples=draws, progress_bar=False)
        data = jnp.asarray(x)

        def enumerated():
            mcmc.run(jax.random.key(0), data, K)
            found = mcmc.get_samples(group_by_chain=True)
            return {k: found[k] for k in ("mu", "P", "sigma")}

        theirs = [timed(enumerated) for _ in range(2)]
        theirs[1] = min(theirs, key=lambda run: run[0])  # NumPyro's second run may be the slower
    for what, (mine, a), (other, b) in zip(
        ("compilation included", "second run"), ours, theirs, strict=True
    ):
        ratio = (least(a) / mine) / (least(b) / other)
        print(
            f"NUTS T={T:,} K={K}, {warmup} + {draws} draws, {what}: pp_mlem ESS {least(a):.0f} in "
            f"{mine:.1f} s, NumPyro enumerated ESS {least(b):.0f} in {other:.1f} s: effective "
            f"draws per second, ratio {ratio:.1f} (asked 5)",
            flush=True,
        )


def cold():
    """Reading and the first fit against a second one, at several lengths."""
    fit_em(Model(hmm, draw(500, 2)[0], 2), starts=2, progress=False)  # what a process pays once
    for T in (1_000, 10_000, 100_000):
        x, _ = draw(T, 3)
        times = [time.perf_counter()]
        model = Model(hmm, x, 3)
        times.append(time.perf_counter())
        options = dict(starts=2, tol=1e-3, polish=False, progress=False)
        for _ in range(2):
            fit_em(model, **options)
            times.append(time.perf_counter())
        read, first, again = np.diff(times)
        print(
            f"T={T:,} K=3: Model {read:.1f} s, fit_em {first:.1f} s of which compilation "
            f"{first - again:.1f} s (asked 3)",
            flush=True,
        )


def long(T=1_000_000, K=8):
    import resource

    x, start = draw(T, K)
    model = Model(hmm, x, K)
    clock = time.perf_counter()
    fit = fit_em(model, init=start, max_iter=5, accelerate=False, polish=False, progress=False)
    seconds = time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"T={T:,} K={K}: 5 iterations in {seconds:.1f} s with compilation, peak memory of the "
        f"process {peak:.2f} GB (asked 2), log-likelihood {fit.log_likelihood:.2f}"
    )
    x, start = draw(100_000, 4)
    values = [Model(hmm, x, 4, dtype=t).log_likelihood(start) for t in ("float64", "float32")]
    print(f"float32 against float64 at T=100,000: {abs(values[1] / values[0] - 1):.1e} relative")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=[])
    what = parser.parse_args().what or ["iteration", "starts", "gradient", "nuts", "cold", "long"]
    if "iteration" in what:
        iteration(10_000, 4, 1.5, dynamax_floor=3.0)
        iteration(100_000, 4, 2.0)
        iteration(10_000, 16, 1.0)
    if "starts" in what:
        starts()
    if "gradient" in what:
        gradient(10_000, 4, 10.0)
        gradient(1_000, 32, 20.0)
    if "nuts" in what:
        nuts()
    if "cold" in what:
        cold()
    if "long" in what:
        long()
