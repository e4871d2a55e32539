"""The Python of the README runs, with smaller numbers where it would take long."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
    assert len(blocks) == 3
    namespace = {"x": find_model("galaxies").data()["x"], "__name__": "readme"}
    for block in blocks:
        for long, short in SMALLER.items():
            block = block.replace(long, short)
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["chosen"].table.shape[0] == 2 and callable(namespace["hmm"])
