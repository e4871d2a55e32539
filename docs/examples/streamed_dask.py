"""A mixture of two normals, fitted to a folder of Parquet files by the workers of a Dask cluster.

    pip install "pp-mlem[dask,parquet]"
    python streamed_dask.py 'data/*.parquet'                     # two workers on this machine
    python streamed_dask.py 'data/*.parquet' tcp://10.0.0.1:8786 # those of a scheduler

Every worker must see the files under the same path. A worker that is lost costs its tasks, which Dask gives to
others; if all are lost, the same command goes on from the checkpoint.
"""

import sys

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from dask.distributed import Client

from pp_mlem import Model, fit_em, open_source


def mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], s[z]), obs=x)


def main(files, scheduler=None):
    # A worker is one process; XLA uses its cores, so one thread of Dask is enough.
    where = {"address": scheduler} if scheduler else {"n_workers": 2, "threads_per_worker": 1}
    with Client(**where) as client:
        model = Model(mixture, open_source(files)["x"], workers=client)
        fit = fit_em(model, seed=0, checkpoint="fit.checkpoint")
        print(fit)


if __name__ == "__main__":
    main(*sys.argv[1:])
