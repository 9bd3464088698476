"""`eatnas-db devices` works on the machine that runs the tests, whatever its devices are."""

import json
import re


def test_devices_are_explained_without_a_home(eatnas, home):
    output = eatnas("devices", "--explain", "--devices", "cpu")
    pattern = r"^CPU: free: \d+ cores, load [\d.]+, .* of memory free; slots: [1-9]"
    assert re.search(pattern, output, re.MULTILINE)
    assert not home.exists()


def test_json_has_the_devices_and_the_state_of_the_driver(eatnas):
    answer = json.loads(eatnas("devices", "--format", "json"))
    assert answer["devices"][-1]["uuid"] == "cpu"
    assert (answer["nvidia"] == "works") == (len(answer["devices"]) > 1)


def test_unknown_device_is_reported_in_one_line(eatnas):
    message = eatnas("devices", "--devices", "cpux", expect=1)
    assert message.count("\n") == 1
    assert "did you mean cpu?" in message
