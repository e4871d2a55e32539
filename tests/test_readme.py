"""The Python of the README runs, with smaller numbers where it would take long."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pp_mlem import Model
from pp_mlem.show.catalogue import find_model

SMALLER = {
    "range(1, 9)": "range(1, 3)", "bootstrap=99": "bootstrap=3", "replicates=500": "replicates=3",
    "replicates=200": "replicates=2", "bootstrap(200": "bootstrap(20", '["em", "laplace"]': '["em"]',
}  # fmt: skip


@pytest.mark.slow
def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    x = find_model("galaxies").data()["x"]
    counts = np.random.default_rng(0).poisson(5, size=(180, 1))
    namespace = {"x": x, "X": x.reshape(-1, 1), "counts": counts, "__name__": "readme"}
    for block in blocks:
        for long, short in SMALLER.items():
            block = block.replace(long, short)
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["chosen"].table.shape[0] == 2 and callable(namespace["hmm"])
    assert namespace["own"].fit(namespace["X"]).predict(namespace["X"]).shape == x.shape
    y, group = np.arange(6.0) % 4, np.arange(6) // 2
    effects = Model(namespace["random_intercepts"], y, y**2, group, groups=3)
    level = Model(namespace["local_level"], np.array([3.0, 1.0, np.nan, 2.0]), latents={"before"})
    assert level.posterior({"s_level": 1.0, "s_noise": 1.0})["level"].mean.shape == (4,)
    assert effects.posterior({"b": np.zeros(2), "tau": 1.0, "sigma": 1.0})["u"].mean.shape == (3,)
