"""Rewrites the field tables of docs/api.md from the models. Run it from anywhere."""

from pathlib import Path

from epd.api.docs import with_field_tables

PAGE = Path(__file__).parents[1] / "docs" / "api.md"

if __name__ == "__main__":
    PAGE.write_text(with_field_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
