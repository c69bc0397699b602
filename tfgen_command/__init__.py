"""The `tfgen` command. It stands outside the package `tfgen` on purpose.

Importing `tfgen` imports Keras and TensorFlow, since Keras finds a saved model's classes among
those already imported: six seconds on a slow machine, before a misspelt option could be reported.
Here lives what can answer without them. A command that computes imports the library when it starts.

    command_line  every command together, and the form of an error
    app           the application, and the options that commands share
    entries       what is known about the zoo's entries; the library asks it, too
    look          list, info
    draw          sample, reconstruct, interpolate, complete, manifold
    measure       score, evaluate
    work          train, export
    own_images    data check, data prepare, recipe new
    serve         serve
    process       what a command and the local server set up: settings, ports, TensorFlow, memory
    wording       what the command and the library say in the same words
"""

__all__ = ["main"]


def main() -> None:
    """Runs the command line; always raises SystemExit."""
    from tfgen_command.command_line import run

    run()
