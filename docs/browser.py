"""What the page docs/latent-map.md needs: ONNX Runtime for browsers, and a decoder as ONNX.

    python docs/browser.py          # needs npm, a registry, and pip install ".[onnx]"

Both go to build/browser, which git ignores; as a hook of MkDocs this file puts them into the site.
Where they are missing the site is built all the same, and the page says what to run. Nothing is
loaded from the network in the browser.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "browser"
PACKAGE = "onnxruntime-web@1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
ENTRY, MODEL = "vae_2d_mnist", "decode.onnx"
STAMP = "made_of.txt"
PAGE = "latent-map.md"
MISSING = (
    '!!! note "This site was built without the demonstration"\n\n'
    "    Run `python docs/browser.py` before `mkdocs build`. It fetches ONNX Runtime for\n"
    "    browsers with npm, checks its SHA-256, and exports the decoder.\n"
)


def made_of() -> str:
    """Returns which runtime and which weights the files are made of."""
    metadata = json.loads((ROOT / "zoo" / ENTRY / "metadata.json").read_text(encoding="utf-8"))
    return f"{PACKAGE} {SHA256} {metadata['sha256']}"


def complete(folder: Path) -> bool:
    """Returns whether everything that the page loads is there, made of what it now is."""
    stamp = folder / STAMP
    there = all((folder / name).is_file() for name in (*FILES, MODEL, STAMP))
    return there and stamp.read_text(encoding="utf-8") == made_of()


def fetch(folder: Path) -> None:
    """Fetches the pinned package with npm, and keeps the files that the page loads."""
    if shutil.which("npm") is None:
        raise SystemExit("npm is not installed: the page needs it for ONNX Runtime for browsers.")
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", "--pack-destination", scratch, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True)
        packed = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not packed:
            raise SystemExit(f"npm could not fetch {PACKAGE}: {done.stderr.strip()[-300:]}")
        found = hashlib.sha256(packed[0].read_bytes()).hexdigest()
        if found != SHA256:
            raise SystemExit(f"{PACKAGE} has SHA-256 {found}; expected {SHA256}.")
        with tarfile.open(packed[0]) as archive:
            for name in FILES:
                content = archive.extractfile(f"package/dist/{name}")
                (folder / name).write_bytes(content.read())


def export(folder: Path) -> None:
    """Exports the entry's decoder."""
    import tfgen

    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "export"
        tfgen.load(ENTRY).export(written, format="onnx", endpoints=["decode"])
        shutil.copy(written / MODEL, folder / MODEL)


def main() -> None:
    """Makes the folder, unless it is there and up to date."""
    if not complete(FOLDER):
        FOLDER.mkdir(parents=True, exist_ok=True)
        fetch(FOLDER)
        export(FOLDER)
        (FOLDER / STAMP).write_text(made_of(), encoding="utf-8")
    print(f"{FOLDER.relative_to(ROOT)}: {', '.join((*FILES, MODEL))}")


# Hooks of MkDocs


def on_files(files, config):
    """Adds the runtime and the model to the site, if they are there."""
    from mkdocs.structure.files import File

    if complete(FOLDER):
        for name in (*FILES, MODEL):
            path = str(FOLDER / name)
            files.append(File.generated(config, f"browser/{name}", abs_src_path=path))
    return files


def on_page_markdown(markdown, page, config, files):
    """Replaces the demonstration by what to run, if its files are missing."""
    if page.file.src_uri != PAGE or complete(FOLDER):
        return markdown
    begin, end = "<!-- demonstration: begin -->", "<!-- demonstration: end -->"
    before, rest = markdown.split(begin)
    return before + MISSING + rest.split(end)[1]


if __name__ == "__main__":
    sys.exit(main())
