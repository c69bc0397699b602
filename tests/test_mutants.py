"""The list of mutants in benchmarks/mutants.py fits the code."""

import datetime
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import mutants

    yield mutants
    for name in ("mutants", "common"):
        sys.modules.pop(name, None)


def test_every_mutant_changes_one_place(mutants):
    listed = mutants.mutants()
    assert len(listed) >= 60
    for mutant in listed:
        changed = mutant.applied()
        compile(changed, mutant.file, "exec")
        assert mutant.text != mutant.changed
        for word in mutant.tests.split():
            assert not word.endswith(".py") or (Path(__file__).parent / word).is_file(), word


def test_a_mutant_whose_line_is_gone_is_told(mutants):
    stale = mutants.mutants()[0]._replace(text="no such line")
    with pytest.raises(ValueError, match=r"must occur once in noise\.py, found 0 times"):
        stale.applied()


@pytest.mark.parametrize("wanted", [("--only", "levels.py"), ("--numbers", "9999")])
def test_to_choose_no_mutant_is_an_error(mutants, monkeypatch, capsys, wanted):
    monkeypatch.setattr(sys, "argv", ["mutants.py", *wanted])
    with pytest.raises(SystemExit, match="2"):
        mutants.main()
    assert "no mutant has such a file or number" in capsys.readouterr().err


@pytest.mark.nightly
def test_a_tenth_of_the_mutants_is_killed_each_day(mutants):
    today = datetime.date.today().toordinal() % 10
    chosen = [mutant for mutant in mutants.mutants() if mutant.number % 10 == today]
    verdicts = {mutant.change: mutants.verdict(mutant)[0] for mutant in chosen}
    assert {change: found for change, found in verdicts.items() if found != "killed"} == {}
