"""Executes the notebooks and writes them back in one form, so that two versions can be compared line by line.

    python notebooks/make.py                      # all of them
    python notebooks/make.py 04 08                # those whose names begin so

Cells are numbered, nothing of the machine or the time is kept, and pictures have at most 256 colours.
"""

from __future__ import annotations

import base64
import io
import os
import re
import resource
import sys
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

FOLDER = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WARNING_PATH = re.compile(r"^\S*/(?=[^/\s]+\.py:\d+: )", re.MULTILINE)


def small(picture: str) -> str:
    """A PNG in base64 with a palette in the place of true colours, and without what made it."""
    opened = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    written = io.BytesIO()
    opened.quantize(256, dither=Image.Dither.NONE).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode() + "\n"


def joined(outputs: list) -> list:
    """Outputs with what one stream wrote in several goes put together."""
    kept: list = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = WARNING_PATH.sub("", output.text)
            last = kept[-1] if kept else None
            if last is not None and last.output_type == "stream" and last.name == output.name:
                last.text += output.text
                continue
        elif "image/png" in output.get("data", {}):
            output.data["image/png"] = small(output.data["image/png"])
        output.pop("transient", None)
        if "metadata" in output:
            output.metadata = {}
        kept.append(output)
    return kept


def normal(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with numbered cells and nothing that changes from run to run."""
    notebook.metadata = nbformat.from_dict(METADATA)
    number = 0
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", nbformat.NotebookNode()
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            cell.outputs = joined(cell.outputs)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = number
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def make(path: Path) -> None:
    """Execute one notebook and write it back."""
    notebook = nbformat.read(path, as_version=4)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
    )
    client.execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    nbformat.write(normal(notebook), path)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{path.name}: {spent:.0f} CPU seconds, {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    os.environ["PYTHONPATH"] = str(FOLDER.parent)
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not sys.argv[1:] or path.name.startswith(tuple(sys.argv[1:])):
            make(path)


if __name__ == "__main__":
    main()
