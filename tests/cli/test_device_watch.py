"""What `daemon status --watch` draws on a terminal, of rows as it reads them."""

from rich.console import Console

from eatnas_cli.device_view import COLUMNS, draw

UUID = "GPU-{}-1111-2222-3333-444444444444"
NOTHING = dict.fromkeys(COLUMNS) | {"host": "box", "name": "NVIDIA A100-SXM4-80GB"}
BUSY = {"slot": 0, "candidate": 161, "search": "lab", "epochs": "3/5", "images_per_second": 2612, "since_at": 100.0}
MIG = "waits: MIG mode is not supported"


def device(letter, state="training", **facts):
    memory = {"memory": "2.1 of 80.0 GiB", "state": state}
    return NOTHING | memory | {"device": UUID.format(letter * 8)} | (BUSY if state == "training" else {}) | facts


def drawn(*rows, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(draw(rows, 192.0, width))
    return capture.get()


def test_what_trains_is_a_line_for_each_device_at_the_width_of_a_small_terminal():
    text = drawn(device("a"), device("b"))
    lines = [line.split() for line in text.splitlines() if "GPU-" in line]
    assert lines == [
        [f"GPU-{letter * 8}", "2.1/80.0", "0", "161", "3/5", "2612", "1", "min", "32", "s"] for letter in "ab"
    ]
    assert "A100-SXM4-80GB" not in text
    assert "other" in drawn(device("a"), device("b", search="other"))
    assert "A100-SXM4-80GB" in drawn(device("a"), width=120)


def test_devices_that_do_not_train_are_told_together_by_why():
    text = drawn(device("a"), device("b", MIG), device("c", MIG), device("d", "free"))
    assert f"GPU-bbbbbbbb, GPU-cccccccc: {MIG}" in text.replace("\n", " ").replace("  ", " ")
    assert "GPU-dddddddd: free" in text


def test_hosts_are_named_where_there_are_several():
    text = drawn(device("a"), device("b", "free", host="other"), width=120)
    assert "box" in text
    assert "other GPU-bbbbbbbb: free" in text
    assert "box" not in drawn(device("a"))


def test_where_nothing_trains_that_is_said_and_devices_that_begin_alike_keep_their_whole_names():
    alike = [device("a", "free"), device("a", "free", device="GPU-aaaaaaaa-9")]
    text = drawn(*alike, width=120)
    assert text.startswith("nothing is in training")
    assert UUID.format("a" * 8) in text
