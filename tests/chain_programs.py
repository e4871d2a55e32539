"""Small programs with scans, for checks against enumeration of all paths."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

X = np.array([0.3, -1.2, 2.0, 0.7])
COUNTS = np.array([[1, 4, 0], [3, 0, 2], [0, 5, 1], [2, 2, 2]])  # (steps, sequences)


def _states(K=2):
    with numpyro.plate("from", K):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
    return P, mu


def fixed_start(x):
    P, mu = _states()

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def state_before(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(3)))
    P, mu = _states(3)
    z0 = numpyro.sample("z0", dist.Categorical(pi))
    numpyro.sample("x0", dist.Normal(mu[z0], 1.0), obs=x[0])

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, z0, x[1:])


def stationary(x):
    P, mu = _states()
    pi = jnp.linalg.solve((jnp.eye(2) - P + 1.0).T, jnp.ones(2))
    z0 = numpyro.sample("z0", dist.Categorical(pi))

    def body(z, xt):
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return numpyro.sample("z", dist.Categorical(P[z])), None

    scan(body, z0, x)


def counter(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    P, mu = _states()

    def body(carry, xt):
        z, t = carry
        z = numpyro.sample("z", dist.Categorical(jnp.where(t == 0, pi, P[z])))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (z, t + 1), None

    scan(body, (0, 0), x)


def covariates(x):
    P, mu = _states()
    b = numpyro.sample("b", dist.Normal(0, 1))

    def body(z, inputs):
        xt, u = inputs
        logits = jnp.log(P[z]) + jnp.stack([0.0 * u, b * u])
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        numpyro.sample("x", dist.Normal(mu[z] + 0.1 * u, 1.0), obs=xt)
        return z, None

    scan(body, 1, (x, jnp.arange(len(x)) * 0.5 + x))


def switching(x):
    P, mu = _states()
    phi = numpyro.sample("phi", dist.Normal(0, 1))

    def body(carry, xt):
        z, last = carry
        z = numpyro.sample("z", dist.Categorical(P[z]))
        xt = numpyro.sample("x", dist.Normal(mu[z] + phi * last, 1.0), obs=xt)
        return (z, xt), None

    scan(body, (0, 0.5), x)


def smoothed_input(x):
    P, mu = _states()
    a = numpyro.sample("a", dist.Uniform(0, 1))

    def body(carry, xt):
        z, level = carry
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z] + level, 1.0), obs=xt)
        return (z, a * level + (1 - a) * xt), None

    scan(body, (1, 0.0), x)


def previous_state(x):
    P, mu = _states()

    def body(z, xt):
        new = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[new] - 0.5 * mu[z], 1.0), obs=xt)
        return new, None

    scan(body, 0, x)


def sequences(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("from", 2):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(2)))
        rate = numpyro.sample("rate", dist.Gamma(2, 1))
    with numpyro.plate("sequences", x.shape[1]):
        z0 = numpyro.sample("z0", dist.Categorical(pi))

    def body(z, xt):
        with numpyro.plate("sequences", x.shape[1]):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Poisson(rate[z]), obs=xt)
        return z, None

    scan(body, z0, x)


def channels(x):
    with numpyro.plate("from", 2):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("states", 2, dim=-2), numpyro.plate("channel", 3, dim=-1):
        rate = numpyro.sample("rate", dist.Gamma(2, 1))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        with numpyro.plate("channels", 3):
            numpyro.sample("x", dist.Poisson(rate[z, jnp.arange(3)]), obs=xt)
        return z, None

    scan(body, 0, x)


def classes(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("class", 2, dim=-2), numpyro.plate("from", 2, dim=-1):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("states", 2):
        rate = numpyro.sample("rate", dist.Gamma(2, 1))
    with numpyro.plate("sequences", x.shape[1]):
        c = numpyro.sample("c", dist.Categorical(w))

    def body(z, xt):
        with numpyro.plate("sequences", x.shape[1]):
            z = numpyro.sample("z", dist.Categorical(P[c, z]))
            numpyro.sample("x", dist.Poisson(rate[z]), obs=xt)
        return z, None

    scan(body, jnp.zeros(x.shape[1], int), x)


def factorial(x):
    with numpyro.plate("from", 2):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(2)))
        Q = numpyro.sample("Q", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        nu = numpyro.sample("nu", dist.Normal(0, 3))

    def body(carry, xt):
        z, u = carry
        z = numpyro.sample("z", dist.Categorical(P[z]))
        u = numpyro.sample("u", dist.Categorical(Q[u]))
        numpyro.sample("x", dist.Normal(mu[z] + nu[u], 1.0), obs=xt)
        return (z, u), None

    scan(body, (0, 1), x)


def mixture_emission(x):
    P, _ = _states()
    with numpyro.plate("rows", 2):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("states", 2, dim=-2), numpyro.plate("parts", 2, dim=-1):
        m = numpyro.sample("m", dist.Normal(0, 3))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        k = numpyro.sample("k", dist.Categorical(w[z]))
        numpyro.sample("x", dist.Normal(m[z, k], 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def left_to_right(x):
    stay = numpyro.sample("stay", dist.Uniform(0, 1))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    P = jnp.array([[1.0, 0.0], [0.0, 1.0]]) + (1 - stay) * jnp.array([[-1.0, 1.0], [0.0, 0.0]])

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(probs=P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def last_state(x):
    P, mu = _states()
    b = numpyro.sample("b", dist.Beta(1, 1).expand([2]).to_event(1))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    z, _ = scan(body, 0, x)
    numpyro.sample("y", dist.Bernoulli(b[z]), obs=jnp.array(1))


def backwards(x):
    P, mu = _states()

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, 0, x, reverse=True)


def by_length(x):
    P, mu = _states()

    def body(z, _):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        return z, None

    z, _ = scan(body, 0, None, length=3)
    numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x[0])


def vectors(x):
    P, _ = _states()
    m = numpyro.sample("m", dist.Normal(0, 3).expand([2, 2]).to_event(2))
    L = jnp.array([[1.0, 0.0], [0.4, 0.8]])

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.MultivariateNormal(m[z], scale_tril=L), obs=xt)
        numpyro.sample("y", dist.Normal(m[z], 2.0).to_event(1), obs=xt + 1)
        return z, None

    scan(body, 0, jnp.stack([x, x[::-1]], -1))


def two_scans(x):
    P, mu = _states()

    def body(name):
        def step(z, xt):
            z = numpyro.sample(f"z{name}", dist.Categorical(P[z]))
            numpyro.sample(f"x{name}", dist.Normal(mu[z], 1.0), obs=xt)
            return z, None

        return step

    z, _ = scan(body("a"), 0, x[:2])
    scan(body("b"), 1, x[1:])


def no_state(x):
    phi = numpyro.sample("phi", dist.Normal(0, 1))

    def body(last, xt):
        xt = numpyro.sample("x", dist.Normal(phi * last, 1.0), obs=xt)
        return xt, None

    scan(body, 0.0, x)


def padded(x, lengths):
    with numpyro.plate("from", 2):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(2)))
        rate = numpyro.sample("rate", dist.Gamma(2, 1))
    n = x.shape[1]

    def body(carry, xt):
        z, t = carry
        with numpyro.plate("sequences", n), handlers.mask(mask=t < lengths):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Poisson(rate[z]), obs=xt)
        return (z, t + 1), None

    scan(body, (jnp.zeros(n, int), 0), x)


def state_before_of_two(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    P, mu = _states()
    with numpyro.plate("scales", 2):
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    z0 = numpyro.sample("z0", dist.Categorical(pi))
    numpyro.sample("x0", dist.Normal(mu[z0], sigma[z0]), obs=x[0])

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=xt)
        return z, None

    scan(body, z0, x[1:])


def music(sequences, lengths):
    """The first model of NumPyro's example on hidden Markov models."""
    n, _, tones = sequences.shape
    probs_x = numpyro.sample("probs_x", dist.Dirichlet(0.9 * jnp.eye(2) + 0.1).to_event(1))
    probs_y = numpyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([2, tones]).to_event(2))

    def step(carry, y):
        x, t = carry
        with numpyro.plate("sequences", n, dim=-2), handlers.mask(mask=(t < lengths)[..., None]):
            x = numpyro.sample("x", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
            with numpyro.plate("tones", tones, dim=-1):
                numpyro.sample("y", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=y)
        return (x, t + 1), None

    scan(step, (jnp.zeros((n, 1), int), 0), jnp.swapaxes(sequences, 0, 1))


def music_with_memory(sequences, lengths):
    """The second one: the notes depend on the notes before."""
    n, _, tones = sequences.shape
    probs_x = numpyro.sample("probs_x", dist.Dirichlet(0.9 * jnp.eye(2) + 0.1).to_event(1))
    probs_y = numpyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([2, 2, tones]).to_event(3))

    def step(carry, y):
        x, y_before, t = carry
        with numpyro.plate("sequences", n, dim=-2), handlers.mask(mask=(t < lengths)[..., None]):
            x = numpyro.sample("x", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
            with numpyro.plate("tones", tones, dim=-1) as each:
                y = numpyro.sample("y", dist.Bernoulli(probs_y[x, y_before, each]), obs=y)
        return (x, y, t + 1), None

    begin = (jnp.zeros((n, 1), int), jnp.zeros((n, tones), int), 0)
    scan(step, begin, jnp.swapaxes(sequences, 0, 1))


SINGLE = [
    fixed_start, state_before, stationary, counter, covariates, switching, smoothed_input,
    previous_state, factorial, mixture_emission, left_to_right, last_state, backwards, by_length,
    vectors, two_scans, no_state,
]  # fmt: skip
SEVERAL = [sequences, channels, classes]
