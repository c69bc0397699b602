"""Griffe's extension for the API pages: the doctests of a docstring become fenced sessions."""

import griffe

__all__ = ["Doctests", "fenced"]


class Doctests(griffe.Extension):
    """Rewrites each docstring as it is collected."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    r"""Puts each run of lines from `>>>` to the next blank line into a fence.

    >>> print(fenced("Adds.\n\nExample:\n>>> 1 + 1\n2\n\nArgs:"))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    Args:
    """
    lines, inside = [], False
    for line in text.splitlines():
        if not inside and line.startswith(">>>"):
            if lines and lines[-1] in ("Example:", "Examples:"):
                lines.pop()
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)
