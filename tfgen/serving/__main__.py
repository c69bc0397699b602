"""Starts the local server: `python .../tfgen/serving SETTINGS`, as `tfgen serve` does.

The process serves SavedModels and nothing else, so it has neither Keras nor the families:
`import tfgen` would bring both, so the package stands here without its `__init__`, and TensorFlow,
which takes Keras along where it can, is told that there is none. That saves a second of start-up.
"""

import os
import sys
import types
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def main() -> None:
    """Runs the server; bad settings give one line on stderr and exit code 2."""
    sys.path[0] = str(PACKAGE.parent)  # was this folder, whose modules would hide others
    for name in ("keras", "tf_keras"):
        sys.modules[name] = None
    package = sys.modules["tfgen"] = types.ModuleType("tfgen")
    package.__path__ = [str(PACKAGE)]
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import tfgen_command
    from tfgen.serving.ports import listen
    from tfgen.serving.settings import Settings

    try:
        settings = Settings.from_json(sys.argv[1])
        listener = listen(settings.host, settings.port, "--port")
        listen(settings.host, settings.grpc_port, "--grpc-port").close()  # gRPC binds it itself
        tfgen_command.import_tensorflow()
        from tfgen.serving.server import run

        run(settings, listener)
    except (ValueError, OSError) as error:
        print(f"tfgen: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
