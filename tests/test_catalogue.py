"""What the page is told of how good the models are that it serves."""

import contextlib

import laws
import pytest
from conftest import VARIED

from tfgen import families, zoo
from tfgen.serving import bodies

MEASURED = {
    bodies.ENOUGH: {"value": 30.0, "unit": "squared feature units"},
    bodies.QUALITY: {"value": 1.5, "unit": "ratio"},
}


class Repository:
    """One model, of which its export has told these details."""

    def __init__(self, details: dict):
        self.details = details

    def models(self) -> dict[str, list[int]]:
        return {"entry": [1]}

    @contextlib.contextmanager
    def use(self, name: str):
        yield self


def quality(model, temperature: float = 1.0, **changes) -> float | None:
    details = {"zoo": zoo.origin(model), "temperature": temperature} | changes
    (told,) = bodies.catalogue(Repository(details))
    return told.get("quality")


@pytest.fixture
def zoo_folder(tmp_path, monkeypatch):
    """Where the catalogue looks for entries."""
    monkeypatch.setattr(bodies, "ZOOS", (tmp_path / "zoo",))
    return tmp_path / "zoo"


@pytest.mark.slow_except("AutoEncoder")
@pytest.mark.parametrize("family", VARIED)
def test_the_quality_is_that_of_the_entrys_own_settings(zoo_folder, family):
    cls, given = families.find(family), VARIED[family][0]
    entry = zoo.save(cls(**given), zoo_folder / "entry", metadata={"results": MEASURED})
    model = zoo.load(entry)
    assert quality(model) == 1.5
    for temperature in (0.0, 0.3, 1.1):
        assert quality(model, temperature) is None
    for name in model.settable:
        default = laws.constructor_arguments(cls)[name].default
        assert default != given[name]
        setattr(model, name, default)
        assert quality(model) is None, name
        setattr(model, name, given[name])
        assert quality(model) == 1.5, name
        assert quality(zoo.load(entry, **{name: default})) is None, name
    assert quality(laws.randomised(model)) is None


def test_the_quality_of_another_model_or_of_none_is_not_told(zoo_folder):
    cls, given = families.find("AutoEncoder"), VARIED["AutoEncoder"][0]
    entry = zoo.save(cls(**given), zoo_folder / "entry", metadata={"results": MEASURED})
    model = zoo.load(entry)
    known = zoo.origin(model)
    for origin in (None, {}, known | {"name": "other"}, known | {"sha256": "0" * 64}):
        assert quality(model, zoo=origin) is None
    older = {key: known[key] for key in ("name", "sha256")}  # which does not tell the settings
    assert quality(model, zoo=older) == 1.5
    zoo.save(zoo.load(entry, noise_std=0.5), entry, metadata={"results": MEASURED})
    assert quality(model) is None  # of the entry before this one
    assert quality(zoo.load(entry)) == 1.5
