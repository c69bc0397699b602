"""What runs where a GPU has JAX and no TensorFlow: StableHLO artifacts on the first device."""

from pathlib import Path

import jax
import numpy as np
from jax._src.lib import xla_client
from jaxlib.mlir.dialects import stablehlo

jax.config.update("jax_enable_x64", True)


def compiled(path: Path):
    """The executable of a StableHLO artifact."""
    program = stablehlo.deserialize_portable_artifact_str(path.read_bytes())
    devices = xla_client._xla.DeviceList(tuple(jax.devices()[:1]))
    return jax.devices()[0].client.compile_and_load(program, devices, xla_client.CompileOptions())


def gigaflops(executable) -> float | None:
    """Arithmetic of one call as XLA counts it, in 10^9 operations, or None where it does not."""
    try:
        return executable.cost_analysis()["flops"] / 1e9
    except Exception:  # not every device's compiler counts
        return None


def on_device(arrays) -> list:
    """Copies numpy arrays to the first device."""
    return [jax.device_put(np.asarray(array)) for array in arrays]
