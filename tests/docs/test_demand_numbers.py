"""What users of such runners lost money or data by has a test each, whose name carries its number (DEMAND.md)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DEMANDED = {*range(1, 15), *range(17, 24), *range(25, 30), 33, 34, 35, 39, 41}


def names_of_tests() -> list[str]:
    """Return the names of all test functions but those that only a long run includes."""
    functions = (
        node
        for path in TESTS.rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    )
    return [
        function.name
        for function in functions
        if not any(ast.unparse(decorator) == "pytest.mark.long" for decorator in function.decorator_list)
    ]


def test_each_number_stands_in_the_name_of_a_test_that_ci_runs() -> None:
    numbers = {int(number) for name in names_of_tests() for number in re.findall(r"(?<=_)r(\d\d)(?=_)", name)}
    assert sorted(DEMANDED - numbers) == []
