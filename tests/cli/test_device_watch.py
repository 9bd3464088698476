"""`daemon status --watch` draws a table of devices."""

from rich.console import Console

from eatnas_cli.device_view import DeviceRow, draw

UUID = "GPU-{}-1111-2222-3333-444444444444"
MIG = "waits: MIG mode is not supported"
MEMORY = "2.1 of 80.0 GiB"
NAME = "NVIDIA A100-SXM4-80GB"


def training(letter, search="lab"):
    return DeviceRow(
        host="box",
        device=UUID.format(letter * 8),
        name=NAME,
        memory=MEMORY,
        slot=0,
        candidate=161,
        search=search,
        epochs="3/5",
        images_per_second=2612,
        since_at=100.0,
    )


def idle(letter, state="free", host="box", suffix="-1111-2222-3333-444444444444"):
    return DeviceRow(host=host, device=f"GPU-{letter * 8}{suffix}", name=NAME, memory=MEMORY, state=state)


def drawn(*rows, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(draw(rows, 192.0, width))
    return capture.get()


def test_each_training_is_one_line_of_a_small_terminal():
    text = drawn(training("a"), training("b"))
    lines = [line.split() for line in text.splitlines() if "GPU-" in line]
    assert lines == [[f"GPU-{letter * 8}", "2.1/80.0", "0", "161", "3/5", "2612", "0:01:32"] for letter in "ab"]
    assert "A100-SXM4-80GB" not in text
    assert "other" in drawn(training("a"), training("b", search="other"))
    assert "A100-SXM4-80GB" in drawn(training("a"), width=120)


def test_idle_devices_are_grouped_by_state():
    text = drawn(training("a"), idle("b", MIG), idle("c", MIG), idle("d"))
    assert f"GPU-bbbbbbbb, GPU-cccccccc: {MIG}" in text.replace("\n", " ").replace("  ", " ")
    assert "GPU-dddddddd: free" in text


def test_hosts_are_named_if_there_are_several():
    text = drawn(training("a"), idle("b", host="other"), width=120)
    assert "box" in text
    assert "other GPU-bbbbbbbb: free" in text
    assert "box" not in drawn(training("a"))


def test_uuids_with_the_same_beginning_are_shown_in_full():
    text = drawn(idle("a"), idle("a", suffix="-9"), width=120)
    assert text.startswith("nothing is in training")
    assert UUID.format("a" * 8) in text
