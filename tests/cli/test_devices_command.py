"""`eatnas-db devices` works on the machine that runs the tests, whatever its devices are."""

import json
import re
import subprocess
import sys


def run_devices(tmp_path, *arguments):
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(tmp_path / "home"), "devices", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_devices_are_explained_without_a_home(tmp_path):
    done = run_devices(tmp_path, "--explain", "--devices", "cpu")
    assert done.returncode == 0, done.stderr
    pattern = r"^CPU: free: \d+ cores, load [\d.]+, .* of memory free; slots: [1-9]"
    assert re.search(pattern, done.stdout, re.MULTILINE)
    assert not (tmp_path / "home").exists()


def test_json_has_the_devices_and_the_state_of_the_driver(tmp_path):
    answer = json.loads(run_devices(tmp_path, "--format", "json").stdout)
    assert answer["devices"][-1]["uuid"] == "cpu"
    assert (answer["nvidia"] == "works") == (len(answer["devices"]) > 1)


def test_unknown_device_is_reported_in_one_line(tmp_path):
    done = run_devices(tmp_path, "--devices", "cpux")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "did you mean cpu?" in done.stderr
