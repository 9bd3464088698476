import contextlib
import dataclasses
import itertools
import json
import struct
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_protocol.framing import Decoder, encode
from eatnas_protocol.messages import Exit, Message

ints, texts = st.integers(0, 2**53), st.text(max_size=5)
numbers = st.floats(allow_nan=False)
mappings = st.dictionaries(texts, st.none() | ints | texts | st.lists(ints, max_size=3), max_size=3)
BY_ANNOTATION = {
    "int": ints,
    "str": texts,
    "float": numbers,
    "bool": st.booleans(),
    "str | None": st.none() | texts,
    "int | None": st.none() | ints,
    "float | None": st.none() | numbers,
    "list[dict[str, Any]]": st.lists(mappings, max_size=3),
    "dict[str, str]": st.dictionaries(texts, texts, max_size=3),
    "dict[str, str | None] | None": st.none() | st.dictionaries(texts, st.none() | texts, max_size=3),
    "dict[str, float]": st.dictionaries(texts, numbers, max_size=3),
    "dict[str, float] | None": st.none() | st.dictionaries(texts, numbers, max_size=3),
    "dict[str, int] | None": st.none() | st.dictionaries(texts, ints, max_size=3),
    "dict[str, Any]": mappings,
    "dict[str, Any] | None": st.none() | mappings,
    "bool | None": st.none() | st.booleans(),
    "list[list[int | float]] | str": texts | st.lists(st.lists(ints | numbers, max_size=5), max_size=7),
}
any_message = st.one_of(
    [
        st.builds(kind, **{field.name: BY_ANNOTATION[field.type] for field in dataclasses.fields(kind)})
        for kind in typing.get_args(Message)
    ]
)


def frame(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


@pytest.mark.slow
@given(st.lists(any_message, max_size=5), st.lists(st.integers(0, 3000), max_size=8))
def test_messages_round_trip_in_arbitrary_chunks(sent, cuts):
    stream = b"".join(map(encode, sent))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder = Decoder()
    received = []
    for start, end in itertools.pairwise(edges):
        received += decoder.feed(stream[start:end])
    assert received == sent


@given(st.lists(any_message, max_size=2))
def test_messages_round_trip_byte_by_byte(sent):
    decoder = Decoder()
    stream = b"".join(map(encode, sent))
    received = [message for byte in stream for message in decoder.feed(bytes([byte]))]
    assert received == sent


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"null",
        b"{}",
        b'["Exit"]',
        b'["Nobody", {}]',
        b'[["Exit"], {}]',
        b'["Exit", 3]',
        b'["Exit", {"now": true}]',
        b'["Release", {"candidate": 1}]',
        b"[" * 100_000,
    ],
)
def test_invalid_body_raises_value_error(body):
    with pytest.raises(ValueError, match="invalid message"):
        Decoder().feed(frame(body))


def test_excessive_length_is_refused_before_the_body_arrives():
    with pytest.raises(ValueError, match="exceeds the limit"):
        Decoder().feed(b"GET / HTTP/1.1")


@given(st.binary(max_size=40))
def test_arbitrary_bytes_decode_or_raise_value_error(body):
    with contextlib.suppress(ValueError):
        Decoder().feed(frame(body))


def test_message_is_json_after_four_bytes_of_length():
    assert json.loads(encode(Exit())[4:]) == ["Exit", {}]
