"""A mixture of two normals, fitted to a folder of Parquet files by all processes that were started.

    srun python streamed_slurm.py 'data/*.parquet'     # see slurm.sh
    mpirun -n 4 python streamed_slurm.py 'data/*.parquet'   # Open MPI, MPICH; needs mpi4py
    python streamed_slurm.py 'data/*.parquet'          # one process
    python streamed_slurm.py 'data/*.parquet' 127.0.0.1:9876 2 0 &   # by hand: coordinator, how many, which
    python streamed_slurm.py 'data/*.parquet' 127.0.0.1:9876 2 1

Every process reads its share of the rows and ends with the same fit; the first one writes. The same command goes on
from the checkpoint.
"""

import os
import sys

import jax


def join(coordinator=None, count=None, rank=None):
    """Find the other processes, before JAX is first used."""
    by_mpi = "OMPI_COMM_WORLD_SIZE" in os.environ or "PMI_SIZE" in os.environ
    if coordinator or by_mpi or "SLURM_STEP_NODELIST" in os.environ:
        jax.distributed.initialize(
            coordinator,
            int(count) if count else None,
            int(rank) if rank else None,
            cluster_detection_method="mpi4py" if by_mpi and not coordinator else None,
            heartbeat_timeout_seconds=30,  # after which the others end, too, where one is lost
        )


join(*sys.argv[2:])

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from pp_mlem import Model, fit_em, open_source


def mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], s[z]), obs=x)


model = Model(mixture, open_source(sys.argv[1])["x"])
fit = fit_em(model, seed=0, checkpoint="fit.checkpoint")
table = fit.summary()  # one more pass over the rows: every process takes part
fit.save("fit.nc")  # the first one writes
fit.posterior(out="posterior")  # of several processes each writes its own rows into this folder
if jax.process_index() == 0:
    print(fit.status, fit.log_likelihood)
    print(table)
