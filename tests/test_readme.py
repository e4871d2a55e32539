"""The Python of the README runs, with fewer draws than it asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pp_mlem.show.catalogue import find_model

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.slow
def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    namespace = {"x": find_model("galaxies").data()["x"], "__name__": "readme"}
    for block in blocks:
        exec(compile(block.replace("chains=4", "chains=2"), "README.md", "exec"), namespace)
    told = re.search(r"# (best log-likelihood .* starts); \.\.\.", README.read_text())
    assert told and namespace["em"].story.startswith(told[1])
