"""What starting costs: importing, the first sample, memory of each entry and of the whole zoo.

    python benchmarks/start.py [NAME ...] [--server] [--models FOLDER] [--json PATH]
        [--write docs/benchmarks.md]

import    `import tfgen` in a new process: seconds and peak memory
entries   for each entry a new process: seconds from its start until `zoo.load` has returned, until
          the first image is there (the autoencoder decodes one) and for the second; peak memory
server    with --server, once: `tfgen serve` with the whole zoo, exported before unless --models
          holds it: seconds until it answers, its memory then and after one image from every model,
          and the peak

The import and all entries take turns, and the results are medians over the rounds. Memory is
resident, in MB, and includes Python, TensorFlow and Keras. `import_time.py` compares the import
with that of Keras alone; `memory.py` looks at training.
"""

import argparse
import contextlib
import datetime
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from peers.contract import peak_megabytes, resident_megabytes

HEADER = ("entry", "loaded, s", "first image, s", "second, s", "peak MB")


def work(name: str, started: float) -> None:
    """The new process: prints what happened when, counted from its start."""
    found: dict[str, float] = {}
    import tfgen

    found["imported"] = time.time() - started
    if name != "import":
        import numpy as np

        model = tfgen.load(name)
        found["loaded"] = time.time() - started
        labels = None if model.num_classes is None else 0
        latents = np.zeros((1, getattr(model, "latent_dim", 1)), np.float32)

        def draw() -> None:
            if "sample" in model.endpoints():
                model.sample(1, seed=0, labels=labels)
            else:
                model.decode(latents)

        draw()
        found["first"] = time.time() - started
        start = time.perf_counter()
        draw()
        found["second"] = time.perf_counter() - start
    found["megabytes"] = peak_megabytes()
    print(json.dumps(found))


def fresh(name: str) -> dict[str, float]:
    """Returns what a new process measured."""
    command = [sys.executable, "-W", "ignore", __file__, "--work", name]
    command += ["--started", repr(time.time())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def medians(names: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Returns what processes measured for the import and each entry, which take turns."""
    turns = {name: functools.partial(fresh, name) for name in ("import", *names)}
    return {
        name: {key: statistics.median(one[key] for one in each) for key in each[0]}
        for name, each in common.interleaved(turns, repeats).items()
    }


def question(model) -> tuple[str, dict[str, Any]]:
    """Returns the endpoint that gives an image, and its inputs for one: zeros."""
    import numpy as np

    name = "sample" if "sample" in model.endpoints() else "reconstruct"
    _, specs = model.endpoints()[name]
    return name, {
        key: np.zeros((1, *spec.shape[1:]), spec.dtype.as_numpy_dtype)
        for key, spec in specs.items()
    }


def server(models: Path | None, names: list[str]) -> dict[str, Any]:
    """Returns the memory of a server with all entries, before and after one image from each."""
    from serving import Rest, serving

    with contextlib.ExitStack() as stack:
        export, questions = models is None, {}
        if models is None:
            models = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in names:
            model = common.zoo_model(name)
            questions[name] = question(model)
            if export:
                model.export(models / name)
        stored = sum(path.stat().st_size for path in models.rglob("*") if path.is_file())
        start = time.perf_counter()
        running = stack.enter_context(serving(models))
        found: dict[str, Any] = {"seconds": time.perf_counter() - start}
        found |= {"models": len(names), "stored_megabytes": stored / 1e6}
        found["ready"] = resident_megabytes(running.process.pid)
        ask = Rest(running)
        for name, (signature, inputs) in questions.items():
            ask(name, signature, inputs)
        found["asked"] = resident_megabytes(running.process.pid)
    return found


def main() -> int:
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("names", nargs="*", help="entries (default: all trained models)")
    parser.add_argument("--server", action="store_true", help="measure the server as well")
    parser.add_argument("--models", type=Path, help="a repository with the entries, exported")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.started)
        return 0
    if given.write is not None:
        if given.names or not given.server:
            parser.error("--write replaces the whole section: give --server and no names")
        common.around_section(given.write, "start")

    from tfgen import zoo

    names = given.names or zoo.list_models()
    fresh("import")  # byte code and disk cache
    figures: dict[str, Any] = dict(medians(names, given.repeats))
    alone = figures["import"]
    rows = [["import tfgen", f"{alone['imported']:.2f}", "", "", f"{alone['megabytes']:,.0f}"]]
    for name in names:
        one = figures[name]
        cells = [f"{one[key]:.2f}" for key in ("loaded", "first")]
        cells += [f"{one['second']:.3f}", f"{one['megabytes']:,.0f}"]
        rows.append([name, *cells])
    caption = (
        f"{common.host()}, load average {common.STARTED_ON['load']} before; "
        f"medians of {given.repeats} rounds; {datetime.date.today()}."
    )
    if given.server:
        found = figures["server"] = server(given.models, names)
        caption += (
            f" The server, started once with {found['models']} models "
            f"({found['stored_megabytes']:,.0f} MB): "
            f"ready after {found['seconds']:.1f} s with {found['ready']['now']:,.0f} MB, "
            f"{found['asked']['now']:,.0f} MB after one image from each, "
            f"peak {found['asked']['peak']:,.0f} MB."
        )
    if given.write is not None:
        common.write_section(given.write, "start", [caption, common.markdown(HEADER, rows)])
    table = f"{common.format_table(HEADER, rows)}\n\n{caption}"
    most = max(names, key=lambda name: figures[name]["megabytes"])
    verdict = f"most memory: {most}, {figures[most]['megabytes']:,.0f} MB"
    return common.finish(table, figures, True, verdict, given.json)


if __name__ == "__main__":
    sys.exit(main())
