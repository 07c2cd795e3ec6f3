"""The wire format against recorded bytes of openpi's, and what it refuses."""

import json
import time

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from places import GOLDEN

from pi05_progress.observation import PolicyOutput
from pi05_progress.serving.wire import WireError, pack, unpack


def frames():
    return [bytes.fromhex(f["hex"]) for f in json.loads((GOLDEN / "websocket_session.json").read_text())]


def test_recorded_bytes_come_back_byte_for_byte():
    recorded = (GOLDEN / "transforms/msgpack_example.bin").read_bytes()
    assert pack(unpack(recorded)) == recorded


@pytest.mark.parametrize("index", range(len(frames())))
def test_every_frame_of_a_recorded_session_comes_back_byte_for_byte(index):
    frame = frames()[index]
    assert pack(unpack(frame)) == frame


def test_an_array_is_a_map_with_byte_keys_in_c_order():
    array = np.asfortranarray(np.arange(6, dtype="<i2").reshape(2, 3))
    expected = b"\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x0c" + np.arange(6, dtype="<i2").tobytes()
    assert pack(array) == expected + b"\xc4\x05dtype\xa3<i2\xc4\x05shape\x92\x02\x03"


def test_values_survive_with_their_dtypes_and_tuples_become_lists():
    sent = {
        "f2": np.float16([1, np.nan]),
        "empty": np.zeros((0, 3), np.float32),
        "text": np.array(["a", "bc"]),
        "big endian": np.array([1, 2], ">i4"),
        "every other": np.arange(24.0).reshape(4, 6)[::2, ::3],
        "columns first": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "no axes": np.array(7, np.int16),
        "none": None,
        "progress": 0.25,
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        "raw": b"\x00\x01",
        "tuple": (1, (2, "x")),
    }
    got = unpack(pack(sent))
    assert list(got) == list(sent)
    for key, value in sent.items():
        if isinstance(value, np.ndarray):
            assert got[key].dtype == value.dtype
            np.testing.assert_array_equal(got[key], value)
    assert type(got["scalar"]) is np.float32
    assert type(got["flag"]) is np.bool_
    assert got["tuple"] == [1, [2, "x"]]
    assert got["none"] is None
    assert (got["progress"], got["raw"]) == (0.25, b"\x00\x01")


def test_decoded_arrays_are_read_only_views():
    got = unpack(pack(np.zeros(3)))
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([1j]), r"\['obs'\]\[1\] cannot be sent: dtype complex128 \(complex\)"),
        (np.array([{}]), r"\['obs'\]\[1\] cannot be sent: dtype object \(Python objects\)"),
        (np.zeros(1, [("x", "f4")]), r"structured"),
        (np.zeros(2, ml_dtypes.bfloat16), r"dtype bfloat16 .* convert it first"),
        (np.complex64(1), r"complex"),
        (jnp.zeros(2), r"numpy\.asarray"),
        ({1, 2}, r"builtins\.set has no form"),
        (2**70, r"\['obs'\]\[1\] cannot be sent: \d+ has more than 64 bits"),
    ],
    ids=["complex", "objects", "structured", "bfloat16", "complex scalar", "jax", "set", "long integer"],
)
def test_what_cannot_be_sent_is_named_with_its_place(value, message):
    with pytest.raises(WireError, match=message):
        pack({"fine": 1, "obs": [np.zeros(2), value]})


def array_map(**changes):
    fields = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [2]}
    return pack({k: v for k, v in (fields | {k.encode(): v for k, v in changes.items()}).items() if v is not None})


def scalar_map(dtype, data):
    return pack({b"__npgeneric__": True, b"data": data, b"dtype": dtype})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pack({"a": np.zeros(9)})[:-3], "bytes are not one complete message"),
        (b"", "0 bytes are not one complete message"),
        (pack(1) + b"\x01", "not one complete message"),
        (b"\xc1", "not one complete message"),
        (array_map(shape=[3]), r"float32\[3\] comes with 8 bytes"),
        (array_map(shape=[-1, -2]), r"an array's shape is \[-1, -2\], expected at most 32 integers from 0"),
        (array_map(shape=[True, 2]), r"an array's shape is list\[2\], expected"),
        (array_map(shape=[1] * 33), r"an array's shape is list\[33\], expected"),
        (array_map(shape="x" * 1000), r"an array's shape is a text of 1000 characters, expected"),
        (array_map(shape=None), "an array's shape is nil"),
        (array_map(shape=[2**40, 2**40]), r"comes with 8 bytes"),
        (array_map(dtype="|O"), r"dtype object \(Python objects\) is refused"),
        (array_map(dtype="nonsense"), "malformed array"),
        (array_map(data=None), "malformed array: it has no b'data'"),
        (array_map(data="text not bytes"), "comes with 'text not bytes'"),
        (array_map(dtype="A" * 5000), "dtype is a text of 5000 characters, expected text such as '<f4'"),
        (array_map(dtype="<U0", data=b"", shape=[2**62]), "comes with 0 bytes"),
        (scalar_map("|S1", 1_500_000_000), r"a scalar of dtype \|S1 comes with int"),
        (scalar_map("<U1", 10**9), r"a scalar of dtype <U1 comes with int"),
        (scalar_map("<M8[s]", 1), r"a scalar of dtype datetime64\[s\] comes with int"),
        (scalar_map("<f4", [0.0] * 5000), r"a scalar of dtype float32 comes with list\[5000\]"),
        (scalar_map("<i4", 1.5), r"a scalar of dtype int32 comes with float"),
        (b"\xd6\xff\0\0\0\0", "not one complete message"),  # an extension: a time
    ],
)
def test_bytes_that_are_no_message_are_refused(data, message):
    with pytest.raises(WireError, match=message):
        unpack(data)


def test_scalars_of_text_survive():
    for scalar in (np.str_("stack"), np.str_(""), np.bytes_(b"ab"), np.int8(-3), np.float64(1.5).astype(">f8")):
        assert unpack(pack(scalar)) == scalar


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd" + (4_000_000).to_bytes(4, "big") + b"\x80" * 4_000_000,
        b"\x9b" + 11 * (b"\xdc" + (9_000).to_bytes(2, "big") + b"\x80" * 9_000),
        b"\x9f" + 15 * (b"\xdc" + (9_000).to_bytes(2, "big") + b"\xc0" * 9_000),
        pack(list(range(10_001))),
        pack({str(i): i for i in range(1_001)}),
        300 * (b"\xde\x27\x10" + b"".join(b"\xa4%04d\xc0" % i for i in range(9_999)) + b"\xa1z") + b"\xc0",
    ],
    ids=["empty maps", "lists of maps", "lists of nils", "one list", "one map", "maps in maps"],
)
def test_a_message_of_very_many_values_is_refused_at_once(data):
    started = time.process_time()
    with pytest.raises(WireError, match=r"more than 10000 values|not one complete message: .* exceeds max"):
        unpack(data)
    assert time.process_time() - started < 1  # eight million of them took 22 s
    assert len(unpack(pack(list(range(9_000))))) == 9_000
    assert len(unpack(pack({str(i): i for i in range(1_000)}))) == 1_000


def test_an_array_of_a_hundred_thousand_axes_is_refused_before_anything_is_computed():
    data = array_map(shape=[2**63 - 1] * 9_990)
    started = time.process_time()
    with pytest.raises(WireError, match=r"an array's shape is list\[9990\]"):
        unpack(data)
    assert time.process_time() - started < 1
    with pytest.raises(WireError):
        unpack(array_map(shape=[2**63 - 1] * 100_000))


def test_any_prefix_of_a_message_is_refused_not_misread():
    data = frames()[2]
    for length in range(len(data)):
        with pytest.raises(WireError):
            unpack(data[:length])


def test_progress_is_no_array_so_that_openpis_chunk_broker_leaves_it_alone():
    """The broker takes one row of every array in a reply per step, and would cut or fail at one of progress."""
    output = PolicyOutput(np.arange(6, dtype=np.float32).reshape(3, 2), 0.4, (0.3, 0.5))
    lower = output.progress_interval[0]
    sent = {"actions": output.actions, "progress": output.progress, "progress_lower": lower, "progress_upper": None}
    reply = unpack(pack(sent))
    step = {key: value[2] if isinstance(value, np.ndarray) else value for key, value in reply.items()}
    assert step["actions"].tolist() == [4.0, 5.0]
    assert (step["progress"], step["progress_lower"], step["progress_upper"]) == (0.4, 0.3, None)
    assert [type(reply[key]) for key in ("progress", "progress_lower")] == [float, float]
    with pytest.raises(IndexError):
        unpack(pack({"progress": np.asarray(0.4)}))["progress"][2]
