"""Runs the notebooks as Jupyter does and keeps what their cells show, for the pages of the site.

    pip install nbclient ipykernel
    python docs/notebook_outputs.py [NAME ...]

Run it when the code of a notebook or the weights it loads have changed; a test says so.
docs/notebooks/outputs/NAME.json has the printed text of each cell of code and the names of its
pictures, by a digest of the code, with which docs/zoo_pages.py finds them for the page; and the
sha256 of the zoo's weights that they came from.
"""

import base64
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from zoo_pages import digest, entries_named

NOTEBOOKS = Path(__file__).resolve().parent / "notebooks"
OUTPUTS = NOTEBOOKS / "outputs"
COLOURS = (256, 48, 16)  # of a picture, the fewer where it would be larger than `ENOUGH`
ENOUGH = 40_000  # bytes
WIDEST = 640  # pixels


def run(path: Path) -> Any:
    """Runs a notebook in an empty folder and returns it with its outputs."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(path)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        return client.execute()


def shown(cell: Any) -> tuple[str, list[bytes]]:
    """Returns the text and the pictures (PNG files) that a cell shows; warnings are left out."""
    text, pictures = "", []
    for output in cell.outputs:
        if output.output_type == "stream":
            text += output.text if output.name == "stdout" else ""
        elif picture := output.data.get("image/png"):
            pictures.append(base64.b64decode(picture))
        elif "execution_count" in output:  # the value of the last line
            text += output.data["text/plain"]
    text = re.sub(r"^INFO:.*\n", "", text, flags=re.MULTILINE)  # of TensorFlow
    return re.sub(r"(?<=127\.0\.0\.1:)\d+", "8501", text.strip("\n").rstrip()), pictures


def small(picture: bytes) -> bytes:
    """Returns a PNG file with fewer colours, the fewer the larger it is, of at most 640 pixels."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    for colours in COLOURS:
        file = io.BytesIO()
        few = image.quantize(colours, dither=Image.Dither.NONE)
        few.save(file, format="png", optimize=True)
        if len(file.getvalue()) < ENOUGH:
            break
    return file.getvalue()


def keep(path: Path) -> None:
    """Runs a notebook and writes what its cells show."""
    cells, pictures = {}, {}
    code = [cell for cell in run(path).cells if cell.cell_type == "code"]
    for number, cell in enumerate(code):
        text, figures = shown(cell)
        names = [f"{path.stem}_{number}_{place}.png" for place in range(len(figures))]
        pictures |= dict(zip(names, map(small, figures), strict=True))
        cells[digest(cell.source)] = {"text": text, "pictures": names}
    OUTPUTS.mkdir(exist_ok=True)
    for old in OUTPUTS.glob(f"{path.stem}_*.png"):
        old.unlink()
    for name, picture in pictures.items():
        (OUTPUTS / name).write_bytes(picture)
    cells["entries"] = entries_named(path.read_text(encoding="utf-8"))
    (OUTPUTS / f"{path.stem}.json").write_text(json.dumps(cells, indent=1) + "\n")
    print(f"{path.stem}: {len(pictures)} pictures, {sum(map(len, pictures.values())):,} bytes")


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.py")):
        keep(NOTEBOOKS / f"{name}.py")
