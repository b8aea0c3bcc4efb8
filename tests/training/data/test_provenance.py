from dataclasses import replace
from pathlib import Path

import pytest

from nuclei.inference.provenance import DATA_NOT_STATED
from tests.training.conftest import MakeSample
from training.data import catalog
from training.data.catalog import CATALOG
from training.data.conversion import write_dataset
from training.data.dataset import Sample, fingerprint, read_dataset
from training.data.provenance import data_sets


@pytest.fixture
def samples(make_sample: MakeSample) -> list[Sample]:
    """Of two sources."""
    made = [make_sample(f"{n}", "histology", (64, 64), n) for n in range(4)]
    return [replace(one, source="ab"[n // 2]) for n, one in enumerate(made)]


def test_what_nothing_is_known_of_gets_what_is_given(samples: list[Sample]) -> None:
    first, second = data_sets(samples, "")
    assert (first.name, second.name) == ("a", "b")
    assert {first.licence, second.licence} == {DATA_NOT_STATED}
    assert first.images == {"histology": 2}
    assert first.nuclei["histology"] == sum(int(one.labels.max()) for one in samples[:2])
    assert [one.licence for one in data_sets(samples, "CC-BY-4.0")] == ["CC-BY-4.0"] * 2


def test_a_manifest_states_licences(samples: list[Sample], tmp_path: Path) -> None:
    write_dataset(samples, tmp_path / "data", "labels")
    rows = [f"{one.id},histology,{'MIT' if one.source == 'a' else ''}" for one in samples]
    manifest = "\n".join(("id,kind,licence", *rows))
    (tmp_path / "data" / "manifest.csv").write_text(manifest)
    (found,) = data_sets(read_dataset(tmp_path / "data"), "CC0-1.0")
    assert found.licence == "MIT AND CC0-1.0"


def test_a_public_set_is_recognised_whatever_it_is_called(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = replace(CATALOG[0], fingerprint=fingerprint(samples[:2]))
    monkeypatch.setattr(catalog, "CATALOG", (known,))
    renamed = [replace(one, id=f"my_{one.id}") for one in samples]
    first, second = data_sets(renamed[::-1], "MIT")[::-1]
    assert (first.licence, first.citation) == (known.licence, known.citation)
    assert (second.licence, second.citation) == ("MIT", "")


def test_each_known_set_says_what_a_person_needs() -> None:
    assert len({one.name for one in CATALOG}) == len(CATALOG)
    for one in CATALOG:
        assert one.citation
        assert one.where.startswith("https://")
        # What nothing learned from has no changes, and nothing under NC has been learned from.
        assert bool(one.fingerprint) == bool(one.changes)
        assert "-NC-" not in one.licence or not one.fingerprint
