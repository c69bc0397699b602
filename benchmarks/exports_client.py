"""One measurement of exports.py: `python exports_client.py RUNTIME FOLDER BATCH`.

Prints "first" once the first batch is drawn, and then images/s over at least a second.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import runtime_client


def saved_model(folder: Path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    sample = loaded.signatures["sample"]
    call = lambda given: sample(seed=tf.constant(given["seed"]))["images"].numpy()  # noqa: E731
    call.loaded = loaded  # whose variables would go otherwise
    return call


def other(runtime: str, folder: Path):
    described = json.loads((folder / "signatures.json").read_text())["endpoints"]["sample"]
    weights = folder / "weights.npz"
    held = np.load(weights) if weights.exists() else {}
    return getattr(runtime_client, runtime)(folder / described["file"], described, held)


def main() -> None:
    runtime, folder, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    given = {"seed": np.arange(batch)}
    run = saved_model(folder) if runtime == "tf_saved_model" else other(runtime, folder)
    run(given)
    print("first", flush=True)
    calls, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < 1 or calls < 3:
        run(given)
        calls += 1
    print(batch * calls / (time.perf_counter() - begin))


if __name__ == "__main__":
    main()
