"""The README's example runs as it stands."""

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parent.parent / "README.md"


def test_the_example_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 1
    assert sum(bool(line.strip()) for line in blocks[0].splitlines()) == 10  # the section is called "Ten lines"
    names = {}
    exec(compile(blocks[0], str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "estimate" in printed  # the quote
    assert "\ncertified: 1 of 1,797 records" in printed  # constants were given, and noise is of a public grid
    assert np.median(names["quote"].noise_std) > 1e-4  # a price that can be seen
    assert not hasattr(names["released"], "_history")
