"""Some rows and columns of a study's table, cell by cell as table.md has them: the table at the head of README.md.

    python -m scripts.readme_table docs/results/tatoeba_en_de/table.md --columns name decoding BLEU --rows "ar Greedy()"

README.md has its command in a comment above the table, and tests/test_readme_table.py keeps the two equal."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path


def shorten(text: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    """The table with these columns, by header, and these rows, in the order that is given.

    text: a Markdown page, whose first table is read; rows: its column `system`, or name and decoding, with a space
    between them. None named: all. Raises ValueError for a column or row that the table does not have."""
    header, rule, *body = [
        re.split(r"(?<!\\) ?\| ?", line.strip("| ")) for line in _first_table(text)
    ]
    if "system" in header:
        systems = [cells[header.index("system")] for cells in body]
    else:
        key = [header.index("name"), header.index("decoding")]
        systems = [" ".join(cells[place] for place in key) for cells in body]
    for what, asked, known in (("columns", columns, header), ("rows", rows, systems)):
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise ValueError(
                f"{what}: expected some of {'; '.join(known)}, got {'; '.join(unknown)}"
            )
    places = [header.index(name) for name in columns or header]
    chosen = [body[systems.index(name)] for name in rows or systems]
    return "".join(
        "| " + " | ".join(cells[place] for place in places) + " |\n"
        for cells in (header, rule, *chosen)
    )


def _first_table(text: str) -> list[str]:
    found = re.search(r"^\|.*\n(?:\|.*\n)+", text, re.MULTILINE)
    if found is None:
        raise ValueError("expected a Markdown page with a table, got one without")
    return found[0].splitlines()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="table.md of a study")
    parser.add_argument("--columns", nargs="+", default=[], help="headers; default: all")
    parser.add_argument("--rows", nargs="+", default=[], help="systems; default: all")
    arguments = parser.parse_args(words)
    try:
        text = shorten(arguments.table.read_text("utf-8"), arguments.columns, arguments.rows)
    except ValueError as error:
        parser.error(f"{arguments.table}: {error}")
    print(text, end="")


if __name__ == "__main__":
    main()
