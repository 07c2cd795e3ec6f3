"""Types of messages for reading and writing bags without ROS: of ROS 2 Jazzy, this project and video packets."""

from __future__ import annotations

from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from .profile import PACKET_TYPE

PACKAGE = "pi05_progress_msgs"
PACKET = """std_msgs/Header header
int32 width
int32 height
string encoding
uint64 pts
uint8 flags
bool is_bigendian
uint8[] data
"""


def message_store() -> Typestore:
    """A new store with types of ROS 2 Jazzy, of ``pi05_progress_msgs``, from the message files, and video packets."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = get_types_from_msg(PACKET, PACKET_TYPE)
    for path in sorted(_message_folder().glob("*.msg")):
        types |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{PACKAGE}/msg/{path.stem}")
    store.register(types)
    return store


def _message_folder() -> Path:
    """Of the checkout, else of the installed package."""
    checkout = Path(__file__).resolve().parents[2] / PACKAGE / "msg"
    if checkout.is_dir():
        return checkout
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory(PACKAGE)) / "msg"
