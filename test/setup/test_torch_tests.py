"""The runner of the tests that need PyTorch: what is skipped has failed."""

import subprocess
import sys

import pytest
from places import ROOT

SCRIPT = ROOT / "scripts/torch_tests.py"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("def test_it():\n    pass\n", 0),
        ("import pytest\n\ndef test_it():\n    pytest.skip('no')\n\ndef test_other():\n    pass\n", 1),
        ("import pytest\n\npytest.importorskip('no_such_package')\n\ndef test_it():\n    pass\n", 1),
        ("def test_it():\n    assert False\n", 1),
    ],
    ids=["passed", "skipped", "file skipped", "failed"],
)
def test_a_skipped_test_is_a_failure(tmp_path, text, status):
    (tmp_path / "test_made_up.py").write_text(text)
    command = [sys.executable, SCRIPT, "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path / "test_made_up.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == status, result.stdout
    assert ("skipped, which is a failure here: test_made_up.py" in result.stdout) == ("skip" in text)
