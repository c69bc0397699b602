"""The audit of what is installed: which packages' licences count, and which of them bind."""

import configparser
import json
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import runs

ROOT = Path(__file__).resolve().parents[1]
GPL = "GNU General Public License v3 (GPLv3)"
NEEDS = {
    "tfgen": ["a>=1", "c; extra == 'onnx'", "dev; extra == 'dev'", "none; os_name == 'none'"],
    "a": ["B_b[fast]; python_version >= '3'"],
    "b-b": ["a", "e; extra == 'fast'", "slow; extra == 'slow'"],
}
NEEDED, OTHERS = ("a", "b-b", "c", "e"), ("dev", "none", "slow", "stranger")


@pytest.fixture
def audit():
    return runs.script_of(ROOT / ".ci" / "audit.py")


@pytest.fixture
def count(audit, monkeypatch):
    """Returns how many licences bind where others than MIT are given by name; None: not there."""

    def binding(**others: str | None) -> int:
        licences = dict.fromkeys(("tfgen", *NEEDED, *OTHERS), "MIT") | others
        here = {name: text for name, text in licences.items() if text is not None}
        listed = [{"Name": n.upper(), "Version": "1", "License": text} for n, text in here.items()]

        def requires(name):
            if name not in here:
                raise PackageNotFoundError(name)
            return NEEDS.get(name)

        done = subprocess.CompletedProcess((), 0, json.dumps(listed), "")
        monkeypatch.setattr(audit, "requires", requires)
        monkeypatch.setattr(audit, "run", lambda *_: done)
        return audit.licences()

    return binding


@pytest.mark.parametrize("name", [*NEEDED, *OTHERS])
def test_what_is_needed_through_others_binds_too(count, name):
    """Through an extra of tfgen or of another package, too; and not what only development needs."""
    assert count(**{name: GPL}) == (name in NEEDED)
    assert count(**{name: "GNU Lesser General Public License v3 (LGPLv3)"}) == 0
    for weak in ("LGPL-2.1-or-later", "GNU Library or Lesser General Public License (LGPL)"):
        assert count(**{name: weak}) == 0
    for both in ("LGPL-2.1 AND GPL-3.0-only", f"GNU Lesser General Public License; {GPL}"):
        assert count(**{name: both}) == (name in NEEDED)
    for spelt in ("GPL", "GPL v3", "GNU GPL", "GNU GENERAL PUBLIC LICENSE\nVersion 3", "agpl-3.0"):
        assert count(**{name: spelt}) == (name in NEEDED)
    assert count(**{name: ""}) == 0
    assert count(**{name: " AND ".join(["BSD-3-Clause"] * 9) + " AND GPL-3.0-only"}) == (
        name in NEEDED
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("requests.exceptions.ConnectionError: no route", 0),
        ("ImportError: cannot import name 'x'", 1),
        ("failed to list installed distributions", 1),
        ("usage: pip-audit", 1),
        ("", 1),
    ],
)
def test_an_audit_that_did_not_run_fails(audit, monkeypatch, capsys, error, code):
    """But not one that reached no service."""
    done = subprocess.CompletedProcess((), 1, "", error)
    monkeypatch.setattr(audit, "run", lambda *_: done)
    assert audit.vulnerabilities() == code
    assert ("NOT CHECKED" in capsys.readouterr().out) == (not code)


def test_what_is_not_installed_is_told(count, capsys):
    assert count(e=None, stranger=None) == 0
    assert "NOT CHECKED, since not installed: e\n" in capsys.readouterr().out


def test_every_extra_for_users_is_looked_at(audit):
    setup_cfg = configparser.ConfigParser()
    setup_cfg.read(ROOT / "setup.cfg")
    extras = set(setup_cfg["options.extras_require"])
    assert set(audit.EXTRAS) == extras - {"dev", "docs", "test"}
