"""Known vulnerabilities and licences of what is installed.

Fails for a vulnerability that a newer release fixes, and for a licence that would bind tfgen's own
code, of a package that tfgen or one of its extras for users needs, directly or through others. A
vulnerability without a fix is shown and does not fail, since there is nothing to upgrade to. Nor
does it fail when the vulnerability service cannot be reached: then it says so, and the next run
with a connection looks again. A pip-audit that does not run is a failure. "NOT CHECKED, since not
installed" does not fail: those packages' licences are looked at where they are installed.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SECONDS = 180
EXTRAS = ("data", "litert", "onnx", "serving", "stablehlo", "tensorboard")  # not for development
BINDING = re.compile(r"GPL|GNU (Affero )?General Public", re.I)
# Binds nothing that uses it.
LESSER = re.compile(r"LGPL[-\w.+]*|GNU (Lesser|Library).*?(?= AND |[;,]|$)", re.I)
UNREACHABLE = ("requests.exceptions", "ServiceError", "Could not connect", "not redirecting")


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def vulnerabilities() -> int:
    """Prints what is known, and returns how many of it a newer release fixes."""
    command = ("pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable")
    unreachable = "vulnerabilities: NOT CHECKED, the service cannot be reached"
    try:
        done = run(*command, "--timeout", "15")
        found = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired as error:
        print(f"{unreachable} ({error})")
        return 0
    except (json.JSONDecodeError, KeyError):
        reason = done.stderr.strip()[-300:] or "no output"
        if any(sign in done.stderr for sign in UNREACHABLE):
            print(f"{unreachable} ({reason})")
            return 0
        print(f"vulnerabilities: pip-audit did not run ({reason})")
        return 1
    checked = sum("vulns" in package for package in found)
    if not checked:  # e.g. an index that serves packages and knows nothing of vulnerabilities
        reason = next((package["skip_reason"] for package in found), "nothing is installed")
        print(f"vulnerabilities: NOT CHECKED, the service knows no package ({reason})")
        return 0
    fixable = 0
    for package in found:
        for one in package.get("vulns", []):
            fixes = one["fix_versions"]
            fixable += bool(fixes)
            word = f"fixed in {', '.join(fixes)}" if fixes else "no fix yet"
            print(f"vulnerability: {package['name']} {package['version']} {one['id']}, {word}")
    print(f"vulnerabilities: {checked} packages checked, {fixable} with a fix to install")
    return fixable


def needed(package: str, extras: tuple[str, ...]) -> set[str]:
    """Returns the packages that one needs on this machine, directly or through others."""
    open_ends, seen = [(package, extra) for extra in ("", *extras)], set()
    while open_ends:
        end = open_ends.pop()
        if end in seen:
            continue
        seen.add(end)
        name, extra = end
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # `licences` tells
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                other = canonicalize_name(requirement.name)
                open_ends += [(other, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in seen} - {package}


def licences() -> int:
    """Prints every installed package's licence, and returns how many would bind tfgen's code."""
    # Without an option it leaves out what it needs itself, such as setuptools.
    done = run("piplicenses", "--format", "json", "--from", "mixed", "--with-system")
    if done.returncode:
        print(f"licences: NOT CHECKED ({done.stderr.strip()[-300:]})")
        return 1
    runtime, binding = needed("tfgen", EXTRAS), 0
    for package in sorted(json.loads(done.stdout), key=lambda package: package["Name"].lower()):
        licence = (package["License"].splitlines() or ["unknown"])[0]
        name = canonicalize_name(package["Name"])
        others = LESSER.sub("", licence)
        bad = name in runtime and BINDING.search(others) is not None
        binding += bad
        star, mark = "*" if name in runtime else " ", "  BINDS" if bad else ""
        print(f"  {star} {package['Name']} {package['Version']}: {licence[:60]}{mark}")
        runtime.discard(name)
    if runtime:
        print(f"licences: NOT CHECKED, since not installed: {', '.join(sorted(runtime))}")
    print(f"licences: {binding} of what tfgen needs (*) would bind its code")
    return binding


if __name__ == "__main__":
    sys.exit(1 if vulnerabilities() + licences() else 0)
