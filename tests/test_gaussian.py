"""Real latents in plates, against dense algebra on NumPyro's own densities."""

from __future__ import annotations

import gaussian_programs as programs
import jax
import numpy as np
import pytest

from pp_mlem import Model
from pp_mlem.program.neutral import neutral_parameters

CASES = [f"{program.__name__} {i}" for i, (program, _, _) in enumerate(programs.PROGRAMS)]


@pytest.fixture(scope="module")
def read():
    """Each model once, and parameters inside of their supports."""
    made = {}

    def get(case):
        if case not in made:
            program, data, options = programs.PROGRAMS[int(case.split()[-1])]
            model = Model(program, *data, **options)
            with jax.enable_x64(True):
                params = {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 3).items()}
            made[case] = model, params
        return made[case]

    return get


@pytest.mark.parametrize("case", CASES)
def test_log_z_is_that_of_the_joint_gaussian(case, read):
    model, params = read(case)
    with jax.enable_x64(True):
        expected = programs.dense(model, params)[0]
    assert model.log_likelihood(params) == pytest.approx(float(expected), rel=1e-10)
    units = model.pointwise_log_likelihood(params)
    assert units.sum() == pytest.approx(float(expected), rel=1e-10)
