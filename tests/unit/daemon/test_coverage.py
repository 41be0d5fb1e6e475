"""The coverage page is what the generator writes today."""

from pathlib import Path

from qvirt.daemon.coverage import page

PAGE = Path(__file__).parents[3] / "docs/api-coverage.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m qvirt.daemon.coverage > docs/api-coverage.md"
