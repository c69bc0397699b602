"""Starts the local server: `python .../tfgen/serving SETTINGS`, as `tfgen serve` does.

The process only serves SavedModels, so it needs neither Keras nor the model families. `import
tfgen` would import both, so the package is set up here without running its `__init__`; and
TensorFlow, which imports Keras if it can, is made to believe that it is not installed. This saves
a second of start-up.
"""

import os
import sys
import types
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def main() -> None:
    """Runs the server; bad settings give one line on stderr and exit code 2, Ctrl-C gives 130."""
    del sys.path[0]  # this folder, whose modules would shadow others
    for name in ("keras", "tf_keras"):
        sys.modules[name] = None
    for name in ("tfgen", "tfgen_command"):
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [str(PACKAGE.parent / name)]
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from tfgen_command.process import Settings, import_tensorflow, listen

    try:
        settings = Settings.from_json(sys.argv[1])
        listener = listen(settings.host, settings.port, "--port")
        listen(settings.host, settings.grpc_port, "--grpc-port").close()  # gRPC will bind it
        import_tensorflow()
        from tfgen.serving.server import run

        run(settings, listener)
    except KeyboardInterrupt:  # before the server handles signals itself
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        print(f"tfgen: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
