"""The page of one's own models, section by section, and what its photographs are said to show."""

from pathlib import Path

from dtufc_research.data.sources import PHOTOS, annotations
from dtufc_research.evaluation.own_models import OWN, RESULTS, read_sections, write_page


def test_a_section_is_written_anew_and_the_others_stay(tmp_path: Path) -> None:
    page = RESULTS / "own-models.md"
    sections = read_sections(page)
    assert list(sections) == [own.title for own in OWN.values()]
    write_page(tmp_path / "page.md", sections)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    write_page(tmp_path / "page.md", {**sections, OWN["masks"].title: "anew"})
    assert read_sections(tmp_path / "page.md") == {**sections, OWN["masks"].title: "anew"}
    assert read_sections(tmp_path / "none.md") == {}


def test_annotated_photographs_are_for_testing() -> None:
    names = [one.photo for one in annotations()]
    assert len(names) == len(set(names))
    assert set(names) <= {Path(name).stem for _, name in PHOTOS["test"]}
    assert all(one.label or one.outlines for one in annotations())
    assert all(
        0 <= value <= 1000 for one in annotations() for line in one.outlines for point in line for value in point
    )
