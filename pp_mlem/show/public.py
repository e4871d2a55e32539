"""The public names, all of them; `pp_mlem` hands them on when one is first asked for."""

from pp_mlem.comparison.calibrate import calibrate
from pp_mlem.comparison.compare import Comparison, compare
from pp_mlem.comparison.experiment import experiment
from pp_mlem.comparison.pool import Pooled, pool
from pp_mlem.comparison.ratio_test import likelihood_ratio_test
from pp_mlem.comparison.selection import select
from pp_mlem.estimate.laplace import fit_laplace
from pp_mlem.estimate.nuts import fit_nuts
from pp_mlem.estimate.point_estimators import fit_em, fit_map, fit_mle
from pp_mlem.fit.base import Fit
from pp_mlem.fit.draws import DrawsFit
from pp_mlem.fit.point import PointFit
from pp_mlem.fit.saving import load
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel as _StreamedModel  # by which Model takes columns
from pp_mlem.sources import open_source
