# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""docs/reliability.md names a test in each row, and each that it names exists."""

import re
from pathlib import Path

TEST = Path(__file__).parent
PAGE = TEST.parent / "docs" / "reliability.md"
FILE, NAME, OF_FILE, CHAOS = r"test_\w+\.py", r"test_\w+", "-k (.+)", "(?:make chaos )?-k (.+)"


def named_in(file: str) -> list[str]:
    """Names of the tests in a file; none where there is no such file."""
    text = (TEST / file).read_text() if (TEST / file).exists() else ""
    return re.findall(r"^def (test_\w+)", text, re.MULTILINE)


def of_chaos() -> list[str]:
    """Those of `make chaos`."""
    files = [p.name for p in TEST.glob("test_*.py") if "mark.chaos" in p.read_text()]
    return [name for file in files for name in named_in(file)]


def unknown(cell: str) -> list[str]:
    """What a cell of the last column names that is not there, or what it consists of otherwise."""
    file, wrong = "", []
    for text in re.findall("`([^`]+)`", cell):
        found = re.fullmatch(rf"({FILE})(?:::({NAME})| {OF_FILE})?", text)
        if found:
            file, name, words = found.groups()
            known = named_in(file)
        else:
            name = text if re.fullmatch(NAME, text) else None
            by_words = re.fullmatch(CHAOS, text)
            words = by_words and by_words[1]
            known = of_chaos() if by_words else named_in(file) if file else []
            if not name and not words:
                if not text.startswith("make "):
                    wrong.append(text)
                continue
        wanted = [word for word in re.findall(r"\w+", words or "") if word != "or"]
        absent = [word for word in wanted if not any(word in test for test in known)]
        if not known or (name and name not in known) or absent:
            wrong.append(text)
    return wrong


def test_every_test_that_a_row_names_exists():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [row.strip(" |").rsplit(" | ", 1)[-1] for row in rows]
    rows_with_tests = [cell for cell in cells if cell != "test"]
    assert len(rows_with_tests) > 100
    assert not [text for cell in rows_with_tests for text in unknown(cell)]
    assert not [cell for cell in rows_with_tests if "`" not in cell and "the same" not in cell]


def test_a_name_that_is_not_there_is_found():
    assert unknown("`test_chaos.py::test_nothing_of_that_name`, `test_no_such_file.py`")
    assert unknown("chaos: `-k nothing_of_that_name`") == ["-k nothing_of_that_name"]
    assert not unknown("chaos: `-k torn`, `test_faults.py -k burst`, `make soak`")
