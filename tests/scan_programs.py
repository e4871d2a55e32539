"""Programs with scans as NumPyro's users write them, each with small data; and the same programs
unrolled step by step, for checks against enumeration of all paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.contrib.control_flow.scan import PytreeTrace, scan_wrapper
from numpyro.distributions.distribution import MaskedDistribution
from numpyro.infer.util import log_density
from numpyro.primitives import Messenger

# --- the program without its scans -----------------------------------------------------------


class Unrolled(Messenger):
    """Runs every scan as a loop in Python; its sites are called "step|name", steps in the order
    of the data."""

    def process_message(self, msg):
        if msg["type"] != "control_flow" or msg["fn"] is not scan_wrapper:
            return
        f, carry, xs, length, reverse = msg["args"]
        leaves = jax.tree.leaves(xs)
        length = len(leaves[0]) if leaves else length
        found, carry = [None] * length, jax.tree.map(jnp.asarray, carry)
        for t in reversed(range(length)) if reverse else range(length):
            with handlers.scope(prefix=str(t), divider="|", hide_types=["plate"]):
                carry, found[t] = f(carry, jax.tree.map(lambda a, t=t: jnp.asarray(a)[t], xs))
        ys = jax.tree.map(lambda *a: jnp.stack([jnp.asarray(v) for v in a]), *found)
        msg["value"] = (length, None, carry), (PytreeTrace({}), ys)


class LawsKept(Messenger):
    """Takes masks off unobserved discrete sites: what is masked of a latent sums to one. A law
    that is masked by the constant False is replaced by nothing, and keeps its mask. Missing
    observations are masked."""

    def process_message(self, msg):
        if msg["type"] != "sample":
            return
        missing = msg["is_observed"] and jnp.size(msg["value"]) > 0
        if missing and jnp.issubdtype(jnp.result_type(msg["value"]), jnp.floating):
            shown = ~jnp.isnan(msg["value"])
            msg["value"] = jnp.where(shown, msg["value"], 0.0)
            rows = shown.all(tuple(range(-msg["fn"].event_dim, 0)))  # of a vector as a whole
            msg["fn"] = msg["fn"].mask(rows)
        if not msg["is_observed"] and msg["fn"].support.is_discrete:
            while isinstance(msg["fn"], MaskedDistribution) and msg["fn"]._mask is not False:
                msg["fn"] = msg["fn"].base_dist


def unrolled_values(program, args, params):
    """The parameters by the names of the unrolled program, and its latents' shapes and values."""
    with handlers.seed(rng_seed=0), handlers.trace() as sites, Unrolled():
        program(*args)
    given, spaces = {}, {}
    for name, site in sites.items():
        step, _, own = name.rpartition("|")
        if site["type"] == "param" or (site["type"] == "sample" and not site["is_observed"]):
            if own in params:
                given[name] = params[own][int(step)] if step else params[own]
            else:
                shape = jnp.shape(site["value"])
                values = np.ravel(site["fn"].enumerate_support(expand=False))
                spaces[name] = shape, values
    return given, spaces


def enumerated(program, args, params, labels=None):
    """(log Z, posterior {name: (*shape, values)}, best path) of the unrolled program, by NumPyro's
    density of every joint value of its latents, priors left out. `labels` (NaN where unknown) are
    values of latents that are known."""
    args = jax.tree.map(jnp.asarray, args)
    given, spaces = unrolled_values(program, args, params)
    given = {k: jnp.asarray(v) for k, v in given.items()}
    counts = {n: int(np.prod(shape)) for n, (shape, _) in spaces.items()}

    def unpack(flat):
        found, at = {}, 0
        for n, (shape, values) in spaces.items():
            found[n] = jnp.asarray(values)[flat[at : at + counts[n]]].reshape(shape)
            at += counts[n]
        return found

    def density(flat):
        with LawsKept():
            return log_density(Unrolled(program), args, {}, {**given, **unpack(flat)})

    def without_prior(flat):
        total, sites = density(flat)
        for name in given:
            if sites[name]["type"] == "sample":
                total = total - sites[name]["fn"].log_prob(sites[name]["value"]).sum()
        return total

    axes = []
    for n, (shape, values) in spaces.items():
        step, _, own = n.rpartition("|")
        known = np.asarray((labels or {}).get(own, np.full(shape, np.nan)), float)
        known = known[int(step)] if step and own in (labels or {}) else known
        for label in np.broadcast_to(known, shape).ravel():
            axes.append([k for k, v in enumerate(values) if np.isnan(label) or v == label])
    every = np.array(list(itertools.product(*axes)), int).reshape(-1 if axes else 1, len(axes))
    logs = np.asarray(jax.jit(jax.vmap(without_prior))(jnp.asarray(every)))
    total = np.logaddexp.reduce(logs)
    weights, best = np.exp(logs - total), unpack(every[logs.argmax()])
    posterior, at = {}, 0
    for n, (shape, values) in spaces.items():
        codes = every[:, at : at + counts[n]]
        at += counts[n]
        shares = [weights @ (codes == k) for k in range(len(values))]
        posterior[n] = np.stack(shares, -1).reshape(*shape, len(values))
    return total, _joined(posterior), _joined(best)


def _joined(found):
    """{"0|z": a, "1|z": b} to {"z": [a, b]}."""
    steps = {}
    for name, value in found.items():
        step, _, own = name.rpartition("|")
        steps.setdefault(own, {})[int(step) if step else None] = np.asarray(value)
    return {
        own: by[None] if None in by else np.stack([by[t] for t in sorted(by)])
        for own, by in steps.items()
    }


# --- programs --------------------------------------------------------------------------------

X = np.array([0.3, -1.2, 2.0, 0.7])
PAIRS = np.array([[0.3, 1.1], [-1.2, 0.4], [2.0, -0.3]])  # (steps, sequences)
COUNTS = np.array([[1, 4], [3, 0], [0, 5]])
MISSING = np.array([np.nan, -1.2, np.nan, 0.7])


def _chain(size=2):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((size, size))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([size]).to_event(1))
    return P, mu


def none_carry(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    P, mu = _chain()

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(pi if z is None else P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, 1

    scan(body, None, x)


def none_in_carry(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    P, mu = _chain()

    def body(carry, xt):
        z, last, t = carry
        z = numpyro.sample("z", dist.Categorical(pi if z is None else P[z]))
        mean = mu[z] + (0.0 if last is None else 0.5 * last) + 0.1 * t
        xt = numpyro.sample("x", dist.Normal(mean, 1.0), obs=xt)
        return (z, xt, t + 1), None

    scan(body, (None, None, 0), x)


def none_in_plate(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    P, mu = _chain()

    def body(z, xt):
        with numpyro.plate("sequences", 2):
            z = numpyro.sample("z", dist.Categorical(pi if z is None else P[z]))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, None, x)


def dictionaries(x):
    P, mu = _chain()

    def body(carry, xt):
        z = numpyro.sample("z", dist.Categorical(P[carry["state"]["z"]]))
        numpyro.sample("x", dist.Normal(mu[z] + xt["u"][0], 1.0), obs=xt["x"])
        return {"state": {"z": z}, "t": carry["t"] + 1}, {"out": (xt["u"], 2.0)}

    scan(body, {"state": {"z": 0}, "t": 0}, {"x": x, "u": (jnp.arange(len(x)) * 0.1,)})


def class_above_observations(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    phi = numpyro.sample("phi", dist.Normal(0, 1).expand([2]).to_event(1))
    c = numpyro.sample("c", dist.Categorical(w))

    def body(last, xt):
        xt = numpyro.sample("x", dist.Normal(phi[c] * last, 1.0), obs=xt)
        return xt, None

    scan(body, 0.5, x)


def class_above_nothing_carried(x):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    c = numpyro.sample("c", dist.Bernoulli(0.2))

    def body(_, xt):
        numpyro.sample("x", dist.Normal(c * mu, 1.0), obs=xt)
        return None, None

    scan(body, None, x)


def classes_of_series(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    phi = numpyro.sample("phi", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("series", x.shape[1]):
        c = numpyro.sample("c", dist.Categorical(w))

    def body(last, xt):
        with numpyro.plate("series", x.shape[1]):
            xt = numpyro.sample("x", dist.Normal(phi[c] * last, 1.0), obs=xt)
        return xt, None

    scan(body, jnp.zeros(x.shape[1]), x)


def class_in_the_carry(x):
    """What is carried starts at a latent above, and adds up observations."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
    c = numpyro.sample("c", dist.Categorical(w))

    def body(level, xt):
        numpyro.sample("x", dist.Normal(level, 1.0), obs=xt)
        return 0.5 * level + 0.3 * xt, None

    scan(body, mu[c], x)


def class_and_states(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    c = numpyro.sample("c", dist.Categorical(w))

    def body(carry, xt):
        z, level = carry
        z = numpyro.sample("z", dist.Categorical(P[c, z]))
        numpyro.sample("x", dist.Normal(mu[z] + level, 1.0), obs=xt)
        return (z, 0.5 * level + 0.1 * c), None

    scan(body, (0, 0.0), x)


def state_before_with_covariates(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    P, mu = _chain()
    b = numpyro.sample("b", dist.Normal(0, 1))
    z0 = numpyro.sample("z0", dist.Categorical(pi))
    numpyro.sample("x0", dist.Normal(mu[z0], 1.0), obs=x[0])

    def body(z, inputs):
        xt, u = inputs
        logits = jnp.log(P[z]) + jnp.array([0.0, 1.0]) * b * u
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, z0, (x[1:], jnp.array([0.5, -1.0, 2.0])[: len(x) - 1]))


def second_order(x):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))

    def body(carry, xt):
        before, last = carry
        z = numpyro.sample("z", dist.Categorical(P[before, last]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (last, z), None

    scan(body, (0, 1), x, history=2)


def second_order_from_nothing(x):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    R = numpyro.sample("R", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))

    def body(carry, xt):
        before, last = carry
        probs = pi if last is None else R[last] if before is None else P[before, last]
        z = numpyro.sample("z", dist.Categorical(probs))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (last, z), None

    scan(body, (None, None), x, history=2)


def second_order_emission(x):
    P, mu = _chain()

    def body(carry, xt):
        before, last = carry
        z = numpyro.sample("z", dist.Categorical(P[last]))
        numpyro.sample("x", dist.Normal(mu[z] + 0.5 * mu[before] - 0.2 * mu[last], 1.0), obs=xt)
        return (last, z), None

    scan(body, (1, 0), x)


def second_order_sequences(x):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    rate = numpyro.sample("rate", dist.Gamma(2, 1).expand([2]).to_event(1))
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    n = x.shape[1]
    with numpyro.plate("sequences", n):
        z0 = numpyro.sample("z0", dist.Categorical(pi))

    def body(carry, xt):
        before, last = carry
        with numpyro.plate("sequences", n):
            z = numpyro.sample("z", dist.Categorical(P[before, last]))
            numpyro.sample("x", dist.Poisson(rate[z]), obs=xt)
        return (last, z), None

    scan(body, (jnp.zeros(n, int), z0), x)


def third_order(x):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([3]).to_event(1))

    def body(carry, xt):
        p, q, r = carry
        z = numpyro.sample("z", dist.Bernoulli(logits=b[0] * p + b[1] * q - b[2] * r))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (q, r, z), None

    scan(body, (0, 1, 1), x, history=3)


def coupled(x):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    Q = numpyro.sample("Q", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2, 2]).to_event(2))

    def body(carry, xt):
        z, u = carry
        u_new = numpyro.sample("u", dist.Categorical(Q[u]))
        z_new = numpyro.sample("z", dist.Categorical(P[z, u]))
        numpyro.sample("x", dist.Normal(mu[z_new, u_new], 1.0), obs=xt)
        return (z_new, u_new), None

    scan(body, (0, 1), x)


def dynamic_network(x):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    Q = numpyro.sample("Q", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2, 2]).to_event(2))

    def body(carry, xt):
        z, u = carry
        u = numpyro.sample("u", dist.Categorical(Q[u]))
        z = numpyro.sample("z", dist.Categorical(P[u, z]))
        numpyro.sample("x", dist.Normal(mu[z, u], 1.0), obs=xt)
        return (z, u), None

    scan(body, (0, 1), x)


def previous_state_and_value(x):
    """Emission on the previous state and the previous observation."""
    P, mu = _chain()
    phi = numpyro.sample("phi", dist.Normal(0, 1))

    def body(carry, xt):
        last, value = carry
        z = numpyro.sample("z", dist.Categorical(P[last]))
        mean = mu[z] + phi * (value - mu[last])
        xt = numpyro.sample("x", dist.Normal(mean, 1.0), obs=xt)
        return (z, xt), None

    scan(body, (0, 0.5), x)


def previous_state(x):
    """Emission on the previous state."""
    P, mu = _chain()

    def body(last, xt):
        z = numpyro.sample("z", dist.Categorical(P[last]))
        numpyro.sample("x", dist.Normal(mu[z] - 0.5 * mu[last], 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def hamilton(x):
    """Hamilton's (1989) switching mean, first observation given."""
    P, mu = _chain()
    phi = numpyro.sample("phi", dist.Normal(0, 1))
    z0 = numpyro.sample("z0", dist.Categorical(jnp.ones(2) / 2))

    def body(last, inputs):
        value, xt = inputs
        z = numpyro.sample("z", dist.Categorical(P[last]))
        numpyro.sample("x", dist.Normal(mu[z] + phi * (value - mu[last]), 1.0), obs=xt)
        return z, None

    scan(body, z0, (x[:-1], x[1:]))


def waiting(x):
    """Animals enter at their first capture (Cormack, Jolly and Seber)."""
    phi = numpyro.sample("phi", dist.Uniform(0, 1))
    rho = numpyro.sample("rho", dist.Uniform(0, 1))
    n = x.shape[1]

    def body(carry, y):
        seen, z = carry
        with numpyro.plate("animals", n), handlers.mask(mask=seen):
            alive = seen * phi * z + (1 - seen)
            z = numpyro.sample("z", dist.Bernoulli(dist.util.clamp_probs(alive)))
            numpyro.sample("y", dist.Bernoulli(dist.util.clamp_probs(rho * z)), obs=y)
        return (seen | y.astype(bool), z), None

    scan(body, (x[0].astype(bool), jnp.ones(n, int)), x[1:])


def survival_of_each_step(x):
    """The same with a survival of every step: a parameter in the body."""
    rho = numpyro.sample("rho", dist.Uniform(0, 1))
    n = x.shape[1]

    def body(carry, y):
        seen, z = carry
        phi = numpyro.sample("phi", dist.Uniform(0, 1))
        with numpyro.plate("animals", n), handlers.mask(mask=seen):
            alive = seen * phi * z + (1 - seen)
            z = numpyro.sample("z", dist.Bernoulli(dist.util.clamp_probs(alive)))
            numpyro.sample("y", dist.Bernoulli(dist.util.clamp_probs(rho * z)), obs=y)
        return (seen | y.astype(bool), z), None

    scan(body, (x[0].astype(bool), jnp.ones(n, int)), x[1:])


def gap(x):
    P, mu = _chain()

    def body(carry, xt):
        z, t = carry
        with handlers.mask(mask=t != 1):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (z, t + 1), None

    scan(body, (0, 0), x)


def law_by_factor(x):
    """The state's law is masked, and a factor stands in its place."""
    P, mu = _chain()

    def body(last, xt):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2).mask(False))
        numpyro.factor("law", jnp.log(P)[last, z])
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def backwards_from_the_end(x):
    P, mu = _chain()

    def body(z, inputs):
        xt, u = inputs
        z = numpyro.sample("z", dist.Categorical(logits=jnp.log(P[z]) + jnp.array([0.0, 1]) * u))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, 1, (x, jnp.arange(len(x)) * 1.0), reverse=True)


def indices_as_xs(x):
    P, mu = _chain()

    def body(z, t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x[t])
        return z, None

    scan(body, 0, jnp.arange(len(x)))


def length_alone(x):
    P, mu = _chain()

    def body(carry, _):
        z, t = carry
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x[t])
        return (z, t + 1), None

    scan(body, (0, 0), None, length=len(x))


def garch(x):
    a = numpyro.sample("a", dist.Uniform(0, 1).expand([2]).to_event(1))

    def body(carry, xt):
        last, variance = carry
        variance = 0.2 + a[0] * last**2 + a[1] * variance
        xt = numpyro.sample("x", dist.Normal(0.0, jnp.sqrt(variance)), obs=xt)
        return (xt, variance), variance

    scan(body, (0.0, 1.0), x)


def regime_garch(x):
    """The variance follows the data alone, the mean switches."""
    P, mu = _chain()
    a = numpyro.sample("a", dist.Uniform(0, 1))

    def body(carry, xt):
        z, last, variance = carry
        variance = 0.2 + a * last**2 + 0.3 * variance
        z = numpyro.sample("z", dist.Categorical(P[z]))
        xt = numpyro.sample("x", dist.Normal(mu[z], jnp.sqrt(variance)), obs=xt)
        return (z, xt, variance), None

    scan(body, (0, 0.0, 1.0), x)


def means_outside(x):
    """Means by a scan, observed at all steps at once (NumPyro's ar2)."""
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))

    def body(carry, t):
        one, two = carry
        mean = a[0] * one + a[1] * two
        return (x[t], one), mean

    _, mean = scan(body, (x[1], x[0]), jnp.arange(2, len(x)))
    numpyro.sample("x", dist.Normal(mean, 1.0), obs=x[2:])


def in_scale(x):
    P, mu = _chain()

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    with handlers.mask(mask=True):
        scan(body, 0, x)


def two_depths(x):
    """States of a sequence, and a class of each cell of its observation."""
    P, mu = _chain()
    n = x.shape[1]

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        with numpyro.plate("cells", n):
            k = numpyro.sample("k", dist.Bernoulli(0.6))
            numpyro.sample("x", dist.Normal(mu[z] + k, 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def increments(x):
    """A parameter of each step of several series: the level is a random walk."""
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    n = x.shape[1]

    def body(level, xt):
        step = numpyro.sample("step", dist.Normal(0, 1))
        level = level + step
        with numpyro.plate("series", n):
            numpyro.sample("x", dist.Normal(level, s), obs=xt)
        return level, None

    scan(body, 0.0, x)


SEEN = np.array([[0, 1], [1, 0], [1, 1]], bool)  # (steps, sequences)
PARTS = np.array([[np.nan, 1.1], [-1.2, np.nan], [2.0, -0.3]])
CELLS = np.array([[[0.1, np.nan], [0.6, -0.5]], [[-1.3, 1.4], [np.nan, np.nan]]])


def classes_of_padded(x):
    """A class of each sequence; one ends early; missing values."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("sequences", 2):
        c = numpyro.sample("c", dist.Categorical(w))

    def body(carry, xt):
        z, t = carry
        with numpyro.plate("sequences", 2), handlers.mask(mask=t < jnp.array([3, 2])):
            z = numpyro.sample("z", dist.Categorical(P[c, z]))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (z, t + 1), None

    scan(body, (jnp.zeros(2, int), 0), x)


def cells_of_groups(x):
    """States in one plate, observations in a plate within it."""
    P, mu = _chain()

    def body(z, xt):
        with numpyro.plate("groups", 2, dim=-2):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            with numpyro.plate("cells", 2, dim=-1):
                numpyro.sample("x", dist.Normal(mu[z] + jnp.arange(2), 1.0), obs=xt)
        return z, None

    scan(body, jnp.zeros((2, 1), int), x)


def seen_after_the_scan(x):
    """Backwards from a state before the scan; its end and its outputs are used after it."""
    P, mu = _chain()
    z0 = numpyro.sample("z0", dist.Categorical(jnp.array([0.3, 0.7])))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, xt * 2

    z, doubled = scan(body, z0, x, reverse=True)
    numpyro.sample("y", dist.Normal(mu[z] + doubled.sum(), 1.0), obs=jnp.array(0.3))


def last_two_states(x):
    """Of first order inside; what follows meets the last two states."""
    P, mu = _chain()

    def body(carry, xt):
        _, last = carry
        z = numpyro.sample("z", dist.Categorical(P[last]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (last, z), None

    (before, last), _ = scan(body, (0, 1), x)
    numpyro.sample("y", dist.Normal(mu[before] - 2 * mu[last], 1.0), obs=jnp.array(0.3))


def gaps_under_a_class(x):
    P, mu = _chain()
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    c = numpyro.sample("c", dist.Categorical(w))

    def body(carry, xt):
        z, t = carry
        with numpyro.plate("sequences", 2), handlers.mask(mask=jnp.asarray(SEEN)[t]):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Normal(mu[z] + c, 1.0), obs=xt)
        return (z, t + 1), None

    scan(body, (jnp.zeros(2, int), 0), x)


def gaps_after_first_states(x):
    P, mu = _chain()
    with numpyro.plate("sequences", 2):
        z0 = numpyro.sample("z0", dist.Categorical(jnp.array([0.3, 0.7])))

    def body(carry, xt):
        z, t = carry
        with numpyro.plate("sequences", 2), handlers.mask(mask=jnp.asarray(SEEN)[t]):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (z, t + 1), None

    scan(body, (z0, 0), x)


def met_but_not_carried(x):
    """A latent of each step whose law depends on the state before; missing values."""
    P, mu = _chain()
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))

    def body(z, xt):
        even = jnp.ones(2) / 2
        k = numpyro.sample("k", dist.Categorical(even if z is None else w[z]))
        z = numpyro.sample("z", dist.Categorical(even if z is None else P[z]))
        numpyro.sample("x", dist.Normal(mu[k] + z, 1.0), obs=xt)
        return z, None

    scan(body, None, x)


def none_under_a_class(x):
    P, mu = _chain()
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    c = numpyro.sample("c", dist.Categorical(w))

    def body(carry, xt):
        z, last = carry
        z = numpyro.sample("z", dist.Categorical(P[c] if z is None else P[(z + c) % 2]))
        mean = mu[z] + (0.0 if last is None else 0.3 * last * c)
        numpyro.sample("x", dist.Normal(mean, 1.0), obs=xt)
        return (z, xt), None

    scan(body, (None, None), x)


def second_order_beside_first(x):
    R = numpyro.sample("R", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    Q, mu = _chain()

    def body(carry, xt):
        before, last, u = carry
        z = numpyro.sample("z", dist.Categorical(R[before, last]))
        u = numpyro.sample("u", dist.Categorical(Q[u]))
        numpyro.sample("x", dist.Normal(mu[z] + 0.5 * u, 1.0), obs=xt)
        return (last, z, u), None

    scan(body, (0, 1, 0), x)


def second_order_padded(x):
    """A sequence that ends before the second order begins; missing values."""
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))

    def body(carry, xt):
        before, last, t = carry
        with numpyro.plate("sequences", 2), handlers.mask(mask=t < jnp.array([1, 3])):
            z = numpyro.sample("z", dist.Categorical(P[before, last]))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return (last, z, t + 1), None

    scan(body, (jnp.zeros(2, int), jnp.ones(2, int), 0), x)


def first_state_kept(x):
    P, mu = _chain()
    z0 = numpyro.sample("z0", dist.Categorical(jnp.array([0.3, 0.7])))

    def body(carry, xt):
        z, start = carry
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z] + 0.2 * mu[start], 1.0), obs=xt)
        return (z, start), None

    scan(body, (z0, z0), x)


# --- bodies that are written for one state, and do not broadcast over several ----------------


def _two_states():
    return numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))


def row_of_a_state(x):
    """Inputs times the row of a state: a matrix product over the wrong axis, for several states."""
    B = numpyro.sample("B", dist.Normal(0, 1).expand([2, 2]).to_event(2))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))

    def body(z, xt):
        z = numpyro.sample("z", dist.Bernoulli(logits=jnp.stack([xt, 1.0]) @ B[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def total_of_a_row(x):
    P = _two_states()
    B = numpyro.sample("B", dist.Normal(0, 1).expand([2, 2]).to_event(2))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal((jnp.array([1.0, 2.0]) * B[z]).sum(), 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def branches(x):
    P = _two_states()
    mu = numpyro.sample("mu", dist.Normal(0, 1))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        mean = jax.lax.switch(z, [lambda m: m, lambda m: 2 * m + 1], mu)
        numpyro.sample("x", dist.Normal(mean, 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


def matrix_of_a_state(x):
    P = _two_states()
    s = numpyro.sample("s", dist.HalfNormal(1).expand([2, 2]).to_event(2))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.MultivariateNormal(jnp.ones(2), jnp.diag(s[z])), obs=xt)
        return z, None

    scan(body, 0, x)


def array_of_a_state(x):
    P = _two_states()
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(jnp.array([mu[z], -mu[z]]), 1.0).to_event(1), obs=xt)
        return z, None

    scan(body, 0, x)


def logits_of_a_state(x):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))

    def body(z, xt):
        z = numpyro.sample("z", dist.Categorical(logits=jnp.array([0.0, a[0] + a[1] * z])))
        numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=xt)
        return z, None

    scan(body, 0, x)


CAPTURES = np.array([[0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]])  # (occasions, animals)

PROGRAMS = [
    (none_carry, X), (none_in_carry, X), (none_in_plate, PAIRS), (dictionaries, X),
    (class_above_observations, X), (class_above_nothing_carried, X), (classes_of_series, PAIRS),
    (class_in_the_carry, X), (class_and_states, X), (state_before_with_covariates, X),
    (second_order, X), (second_order_from_nothing, X), (second_order_emission, X),
    (second_order_sequences, COUNTS), (third_order, X), (coupled, X), (dynamic_network, X),
    (previous_state_and_value, X), (hamilton, X), (previous_state, MISSING), (waiting, CAPTURES),
    (survival_of_each_step, CAPTURES), (gap, X), (law_by_factor, X), (backwards_from_the_end, X),
    (indices_as_xs, X), (length_alone, X), (garch, X), (regime_garch, X), (means_outside, X),
    (in_scale, X), (two_depths, PAIRS), (increments, PAIRS), (classes_of_padded, PARTS),
    (cells_of_groups, CELLS), (seen_after_the_scan, X), (last_two_states, X),
    (gaps_under_a_class, PARTS), (gaps_after_first_states, PARTS), (met_but_not_carried, MISSING),
    (none_under_a_class, X), (second_order_beside_first, X[:3]), (second_order_padded, PARTS),
    (first_state_kept, X), (row_of_a_state, X), (total_of_a_row, X), (branches, X),
    (matrix_of_a_state, PAIRS), (array_of_a_state, PAIRS), (logits_of_a_state, X),
]  # fmt: skip
OPTIONS = {survival_of_each_step: {"parameters": {"phi"}}, increments: {"parameters": {"step"}}}
