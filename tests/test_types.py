"""The shapes in the annotations of the central types are true: a fit under a checker of types."""

from __future__ import annotations

import subprocess
import sys

HOOKED = (
    "pp_mlem.potentials", "pp_mlem.families.base", "pp_mlem.marginal.recursions",
    "pp_mlem.target", "pp_mlem.maximise.quasi_newton", "pp_mlem.maximise.newton",
)  # fmt: skip
FITS = """
from jaxtyping import install_import_hook
with install_import_hook({hooked!r}, "beartype.beartype"):
    import pp_mlem
    from pp_mlem import Model, fit_em, fit_mle
    from pp_mlem.show.catalogue import find_model
for name in ("galaxies", "earthquakes", "mixture_of_regressions"):
    shelf = find_model(name)
    model = Model(shelf.program, **shelf.data())
    for fit_by in (fit_em, fit_mle):
        fit = fit_by(model, starts=2, progress=False)
        print(name, fit.status, len(fit.summary()))
    model.decode(fit.params), model.sample_latents(fit.params)
"""


def test_annotations_hold_in_fits():
    code = FITS.format(hooked=list(HOOKED))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("\n") == 6
