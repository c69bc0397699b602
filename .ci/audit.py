"""Known vulnerabilities and licences of what is installed.

Fails for a vulnerability that a newer release fixes, and for a runtime dependency whose licence
would bind tfgen's own code. A vulnerability without a fix is shown and does not fail, since there
is nothing to upgrade to. Nor does it fail when the vulnerability service cannot be reached: then it
says so, and the next run with a connection looks again. A pip-audit that does not run is a failure.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import requires

SECONDS = 180
BINDING = ("AGPL", "GNU General Public", "GPL-2", "GPL-3", "GPLv2", "GPLv3")


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
    try:
        done = run(*command, "--timeout", "15")
        if "No module named" in done.stderr or "usage:" in done.stderr:
            print(f"vulnerabilities: pip-audit did not run ({done.stderr.strip()[-300:]})")
            return 1
        found = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError, subprocess.TimeoutExpired) as error:
        reason = str(error)
        if not isinstance(error, subprocess.TimeoutExpired):
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"vulnerabilities: NOT CHECKED, the service cannot be reached ({reason[:300]})")
        return 0
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


def licences() -> int:
    """Prints every installed package's licence, and returns how many would bind tfgen's code."""
    done = run("piplicenses", "--format", "json", "--from", "mixed")
    if done.returncode:
        print(f"licences: NOT CHECKED ({done.stderr.strip()[-300:]})")
        return 1
    runtime = {
        re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")
        for line in requires("tfgen") or []
        if "extra ==" not in line
    }
    binding = 0
    for package in sorted(json.loads(done.stdout), key=lambda package: package["Name"].lower()):
        name, licence = package["Name"], package["License"].splitlines()[0][:60]
        needed = name.lower().replace("_", "-") in runtime
        lesser = "LGPL" in licence or "Lesser" in licence
        bad = needed and not lesser and any(word in licence for word in BINDING)
        binding += bad
        mark = "  BINDS" if bad else ""
        print(f"  {'*' if needed else ' '} {name} {package['Version']}: {licence}{mark}")
    print(f"licences: {binding} of the runtime dependencies (*) would bind tfgen's code")
    return binding


if __name__ == "__main__":
    sys.exit(1 if vulnerabilities() + licences() else 0)
