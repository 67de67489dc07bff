"""The reference: docstrings as they are rendered, and that none of what is public is missing."""

import importlib
import re
import sys
from pathlib import Path

import gvcluster
import gvcluster.testing

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS / "_ext"))

to_rst = importlib.import_module("house_docstrings").to_rst


def rendered(text: str) -> str:
    return "\n".join(line for line in to_rst(text.splitlines()) if line)


def test_backticks_become_links_or_code_and_nothing_else_is_markup() -> None:
    said = rendered("Ends *at once*, as `close` does; `timeout=2` and `a\\b` are code, x_ is not.")
    assert r":py:obj:`close`" in said
    assert "``timeout=2``" in said
    assert "``a\\b``" in said
    assert r"\*at once\*" in said
    assert r"x\_ is" in said


def test_a_section_is_a_field_with_a_row_for_each_name() -> None:
    said = rendered(
        "Do.\n\nArgs:\n    name, other: One, that\n        goes on.\n    **more: See there.\n\nBlocks: as `get`."
    )
    assert ":Arguments:" in said
    assert "* **name**, **other** – One, that goes on." in said
    assert r"* **\*\*more** – See there." in said
    assert ":Blocks:\n    as " in said


def test_errors_are_linked() -> None:
    said = rendered("Do.\n\nRaises:\n    ConfigError, ReplyError: No.\n")
    assert "* :py:exc:`.ConfigError`, :py:exc:`.ReplyError` – No." in said


def test_options_within_an_argument_are_a_list_of_their_own() -> None:
    said = rendered("Do.\n\nArgs:\n    options: `a`: one. `b`: two,\n        still two.\n        `c`: three.\n")
    assert "    * **a** – one." in said
    assert "    * **b** – two, still two." in said
    assert "    * **c** – three." in said


def test_an_indented_piece_is_code_and_python_if_it_can_be() -> None:
    assert ".. code-block:: python\n    x = 1" in rendered("For example:\n\n    x = 1\n\nThat is all.")
    assert ".. code-block:: none\n    a ├── b" in rendered("A tree:\n\n    a ├── b\n")


def test_rows_and_bullets() -> None:
    assert rendered("one: first\n    and on\ntwo(x): second") == "* **one** – first and on\n* **two(x)** – second"
    assert rendered("- one\n  goes on\n- two") == "* one goes on\n* two"
    assert rendered("Only this: no list, for the next line\nis none.").startswith("Only this: no list")


def test_all_that_is_public_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^\.\. auto\w+:: (?:\w+\.)*(\w+)$", pages, re.M))
    public = {*gvcluster.__all__, *gvcluster.testing.__all__}
    assert public - named == {"__version__"}
