"""Brute force: every configuration of every latent of a program's text, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plain_numpyro
from scipy.special import logsumexp

HEADER = """\
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

"""


class TooLarge(Exception):
    """More configurations than are worth a test."""


@dataclass(frozen=True)
class Cells:
    """One latent: its values, and those that each of its cells may take."""

    name: str
    values: np.ndarray
    allowed: np.ndarray  # (*shape, values)
    hidden: np.ndarray  # (*shape)


class Enumeration:
    """All configurations of a program's latents at given data.

    Args:
        text: a function `program` in NumPyro's language, without imports.
        arguments: its arguments by name.
        observe: known values of latents, NaN or -1 where unknown.
        members: (plate, argument) where the rows of a plate belong to weighted units that are
            gathered by an argument.
        limit: the most configurations.
    """

    def __init__(
        self,
        text: str,
        arguments: Mapping[str, Any],
        params: Mapping[str, Any],
        observe: Mapping[str, Any],
        members: tuple[str, str] | None = None,
        limit: int = 700,
    ) -> None:
        self.code = compile(text, "program", "exec")
        self.arguments = dict(arguments)
        self.members = members
        self.latents = self._discover(params, observe)
        choices = []
        for latent in self.latents:
            for cell in np.ndindex(latent.hidden.shape):
                choices.append(np.flatnonzero(latent.allowed[cell]))
        count = float(np.prod([float(len(c)) for c in choices])) if choices else 1.0
        if count > limit:
            raise TooLarge(f"{count:.3g} configurations")
        self.options = np.array([len(c) for c in choices])
        self.codes = np.array(list(itertools.product(*choices)), int).reshape(int(count), -1)

    def _run(self, params: Mapping[str, Any], latents: Mapping[str, Any]) -> plain_numpyro.Run:
        run = plain_numpyro.Run({k: np.asarray(v, float) for k, v in params.items()}, latents)
        names = run.names()
        exec(self.code, names)
        names["program"](**self.arguments)
        return run

    def _discover(self, params: Mapping[str, Any], observe: Mapping[str, Any]) -> list[Cells]:
        run = self._run(params, {})
        found = []
        for name, values in run.values.items():
            own = [d for d in run.found if d.name == name and d.role == "latent"]
            timed = own[0].step is not None
            hidden = np.stack([d.hidden for d in own]) if timed else own[0].hidden
            support = np.array(values)
            allowed = np.ones((*hidden.shape, len(values)), bool)
            if name in observe:
                label = np.asarray(observe[name], float).reshape(hidden.shape)
                known = ~np.isnan(label) & ((label != -1) | np.isin(-1, support)) & ~hidden
                match = label[..., None] == support
                allowed = np.where(known[..., None], match, True)
            found.append(Cells(name, support, allowed, hidden))
        return found

    def _unpack(self, row: np.ndarray) -> dict[str, np.ndarray]:
        found, at = {}, 0
        for latent in self.latents:
            count = latent.hidden.size
            codes = row[at : at + count]
            found[latent.name] = latent.values[codes].reshape(latent.hidden.shape)
            at += count
        return found

    # --- densities ----------------------------------------------------------------------------

    def _densities(self, params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(free, units): log densities outside and inside of weighted units, for every
        configuration; `weights` and `owner` (which cells of latents lie in which unit) aside."""
        free = np.zeros(len(self.codes))
        units = None
        for i, row in enumerate(self.codes):
            run = self._run(params, self._unpack(row))
            for d in run.found:
                if d.role == "prior":
                    continue
                if d.scale is None:
                    free[i] += d.array.sum()
                    continue
                if units is None:
                    self.weights = d.scale
                    units = np.zeros((len(self.codes), *d.scale.shape))
                if self.members and self.members[0] in d.plates:
                    np.add.at(units[i], self.arguments[self.members[1]], d.array)
                else:
                    units[i] += _folded(d.array, d.scale.shape)
        if units is None:
            self.weights = np.ones(0)
            units = np.zeros((len(self.codes), 0))
        self.scaled = {
            d.name: d.plates for d in run.found if d.scale is not None and d.role == "latent"
        }
        return free, units.reshape(len(self.codes), -1)

    def _owner(self) -> np.ndarray:
        """The weighted unit of each cell of the latents, -1 outside of all."""
        shape, found = self.weights.shape, []
        for latent in self.latents:
            own = np.full(latent.hidden.shape, -1)
            if latent.name in self.scaled:
                numbers = np.arange(self.weights.size).reshape(shape)
                if self.members and self.members[0] in self.scaled[latent.name]:
                    numbers = numbers[self.arguments[self.members[1]]]
                own = np.broadcast_to(numbers, np.broadcast_shapes(numbers.shape, own.shape))
            found.append(own.ravel())
        return np.concatenate(found) if found else np.zeros(0, int)

    def solve(self, params: Mapping[str, Any]) -> Solution:
        free, units = self._densities(params)
        owner = self._owner()
        log_options = np.log(self.options)
        others = np.array(
            [log_options[(owner >= 0) & (owner != u)].sum() for u in range(units.shape[1])]
        )
        # Configurations that agree on all latents outside of weighted units.
        above = np.unique(self.codes[:, owner < 0], axis=0, return_inverse=True)[1].ravel()
        weights = self.weights.ravel()
        groups = []
        shares = np.zeros_like(units)
        for g in range(above.max() + 1):
            inside = above == g
            each = logsumexp(units[inside], axis=0)
            shares[inside] = np.exp(units[inside] - each)
            value = (weights * (each - others)).sum()
            base = free[inside]
            # Without weights there is one configuration to a group.
            groups.append(base[0] + value)
        groups = np.array(groups)
        log_z = logsumexp(groups)
        posterior = np.exp(groups - log_z)
        joint = free + units @ weights
        tables, at = {}, 0
        for latent in self.latents:
            count, size = latent.hidden.size, len(latent.values)
            table = np.zeros((count, size))
            for cell in range(count):
                unit = owner[at + cell]
                weight = posterior[above] * (1.0 if unit < 0 else shares[:, unit])
                if unit < 0:
                    weight = weight / np.bincount(above)[above]
                table[cell] = np.bincount(self.codes[:, at + cell], weight, size)
            tables[latent.name] = table.reshape(*latent.hidden.shape, size)
            at += count
        return Solution(float(log_z), tables, joint)

    def log_z(self, params: Mapping[str, Any]) -> float:
        return self.solve(params).log_z

    def joint_at(self, solution: Solution, decoded: Mapping[str, Any]) -> float:
        """The joint log density (weights applied) of one decoded configuration."""
        wanted = []
        for latent in self.latents:
            given = np.asarray(decoded[latent.name]).reshape(latent.hidden.shape)
            codes = (given[..., None] == latent.values).argmax(-1)
            wanted.append(np.where(latent.hidden, -1, codes).ravel())
        wanted = np.concatenate(wanted)
        same = ((self.codes == wanted) | (wanted < 0)).all(1)
        return float(solution.joint[same].max()) if same.any() else -np.inf

    def has_data(self, params: Mapping[str, Any]) -> bool:
        """Whether an observation is neither missing nor masked."""
        return any(d.array.any() for d in self._run(params, {}).found if d.role == "observed")

    def log_prior(self, params: Mapping[str, Any]) -> float:
        run = self._run(params, {})
        return float(sum(d.array.sum() for d in run.found if d.role == "prior"))


@dataclass(frozen=True)
class Solution:
    """log Z, the posterior of each latent (*shape, values), log joint of every configuration."""

    log_z: float
    posterior: dict[str, np.ndarray]
    joint: np.ndarray


def _folded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array over a frame summed to `shape` (right-aligned; size one where summed)."""
    rank = max(array.ndim, len(shape))
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    target = (1,) * (rank - len(shape)) + shape
    axes = tuple(i for i in range(rank) if target[i] == 1 and array.shape[i] > 1)
    folded = array.sum(axes, keepdims=True) if axes else array
    return np.broadcast_to(folded, target).reshape(shape)
