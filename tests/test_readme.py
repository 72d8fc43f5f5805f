"""The README's example runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_example_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 1
    assert sum(bool(line.strip()) for line in blocks[0].splitlines()) == 10  # the section is called "Ten lines"
    names = {}
    exec(compile(blocks[0], str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "\ncertified: NewtonLogisticRegression on 568 records" in f"\n{printed.partition('<ResidualCertificate')[2]}"
    assert "holds (certified): epsilon = 1, delta = 1e-05" in printed
    assert "568 records as certified; model as certified" in printed
    assert names["result"].before_after.epsilon < 1  # so that the example is one to follow
    assert names["result"].model.score(*names["now"]) > 0.88
    assert 42 not in names["result"].model.ids_
