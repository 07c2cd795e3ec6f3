"""The progress that was published while a bag was recorded, one line per message: seconds, progress, status.

python examples/progress_from_bag.py BAG > progress.csv
"""

import sys
from pathlib import Path

from rosbags.highlevel import AnyReader

from training.bags.message_types import known_types

if len(sys.argv) != 2:
    sys.exit(__doc__)
STATUS = ("UNKNOWN", "ADVANCING", "STALLED", "REGRESSING", "SUCCEEDED", "FAILED")

with AnyReader([Path(sys.argv[1])], default_typestore=known_types()) as bag:
    topics = [topic for topic in bag.connections if topic.msgtype == "pi05_progress_msgs/msg/TaskProgress"]
    if not topics:
        sys.exit(f"{sys.argv[1]} holds no TaskProgress; topics: {', '.join(sorted(bag.topics))}")
    print("seconds,progress,status")
    for topic, _, data in bag.messages(topics):
        message = bag.deserialize(data, topic.msgtype)
        stamp = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        print(f"{stamp:.3f},{message.progress:.3f},{STATUS[message.status]}")
