"""A node of your own that reacts to progress: it says when a task is done, stalls or goes backwards, and then ends.

python examples/react_to_progress.py          # beside `make demo` or a running policy node
"""

import rclpy
from rclpy.node import Node

from pi05_progress_msgs.msg import TaskProgress

WHAT_TO_SAY = {
    TaskProgress.STALLED: "is not getting anywhere: somebody should look",
    TaskProgress.REGRESSING: "goes backwards: something was undone",
    TaskProgress.SUCCEEDED: "is done",
}


class Reaction(Node):
    """Speaks once per change of status, and is done when the task is."""

    def __init__(self) -> None:
        super().__init__("reaction")
        self.status, self.done = TaskProgress.UNKNOWN, rclpy.task.Future()
        self.create_subscription(TaskProgress, "task_progress", self.on_progress, 10)

    def on_progress(self, message: TaskProgress) -> None:
        """Compare with the last status; unknown progress is NaN and has status UNKNOWN."""
        if message.status != self.status and message.status in WHAT_TO_SAY:
            print(f"{message.task!r} {WHAT_TO_SAY[message.status]} ({message.progress:.0%})", flush=True)
        self.status = message.status
        if message.status == TaskProgress.SUCCEEDED and not self.done.done():
            self.done.set_result(True)


rclpy.init()
node = Reaction()
rclpy.spin_until_future_complete(node, node.done)
