"""Two tasks in a row by a behaviour tree: one that has FAILED is tried again; what the operator stops stays stopped.

python examples/two_tasks.py "stack the cubes" "lift the red cube"

Needs py_trees (from pip, or ros-jazzy-py-trees) and an armed policy node (docs/commanding.md). Ctrl-C stops.
"""

import signal
import sys
import threading

import rclpy
from py_trees import behaviour, composites, decorators, trees
from py_trees.common import Status
from rclpy.action import ActionClient
from rclpy.signals import SignalHandlerOptions

from pi05_progress_msgs.action import RunTask


class DoTask(behaviour.Behaviour):
    """A goal of the policy node. One that is neither done nor FAILED in the end, as by a pause, stops everything."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.stopped = False

    def initialise(self) -> None:
        """Give the goal."""
        self.sent, self.ending = client.send_goal_async(RunTask.Goal(task=self.name, stop_on_failure=True)), None

    def update(self) -> Status:
        """Look what has become of it."""
        if not self.sent.done():
            return Status.RUNNING
        if not self.sent.result().accepted:
            self.stopped = True
            print(f"{self.name!r} is refused: the policy node's log says why", flush=True)
            return Status.FAILURE
        self.ending = self.ending or self.sent.result().get_result_async()
        if not self.ending.done():
            return Status.RUNNING
        result = self.ending.result().result
        print(f"{self.name!r}: {result.message}", flush=True)
        done = result.outcome == RunTask.Result.SUCCESS
        self.stopped = not done and result.termination_reason != RunTask.Result.FAILED
        return Status.SUCCESS if done else Status.FAILURE

    def terminate(self, new_status: Status) -> None:
        """Cancel the goal if the tree is interrupted meanwhile."""
        if new_status == Status.INVALID and self.status == Status.RUNNING:
            rclpy.spin_until_future_complete(node, self.sent, timeout_sec=10.0)
            if self.sent.done() and self.sent.result().accepted:
                rclpy.spin_until_future_complete(node, self.sent.result().cancel_goal_async(), timeout_sec=10.0)


rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
node = rclpy.create_node("two_tasks")
client = ActionClient(node, RunTask, "policy_node/run_task")
client.wait_for_server()
tasks = [DoTask(task) for task in sys.argv[1:]]
retries = [decorators.Retry(f"twice {task.name}", task, num_failures=2) for task in tasks]
in_a_row = composites.Sequence("in a row", memory=True, children=retries)
tree = trees.BehaviourTree(
    decorators.EternalGuard("unless stopped", in_a_row, condition=lambda: not any(task.stopped for task in tasks))
)
# Heeded between two ticks: an exception within one would leave a goal that was just sent without anybody to cancel it.
interrupted = threading.Event()
signal.signal(signal.SIGINT, lambda *_: interrupted.set())
while tree.root.status in (Status.INVALID, Status.RUNNING) and not interrupted.is_set():
    rclpy.spin_once(node, timeout_sec=0.1)
    tree.tick()
if tree.root.status == Status.RUNNING:
    tree.root.stop(Status.INVALID)
sys.exit(tree.root.status != Status.SUCCESS)
