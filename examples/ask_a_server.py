"""A client of the policy server: sends what a robot sees, prints actions and progress with its filtered estimate.

python -m pi05_progress.serving --checkpoint models/tiny_demo      # in another terminal
python examples/ask_a_server.py ws://127.0.0.1:8000
"""

import sys

import numpy as np

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.serving.client import PolicyClient

if len(sys.argv) != 2:
    sys.exit(__doc__)
with PolicyClient(sys.argv[1]) as client:
    server = client.connect()
    print(f"model {server['model_id']} for {server['robot']}, {server['action_horizon']} rows a chunk")
    robot = RobotProfile.load(server["robot"])
    rng = np.random.default_rng(0)
    for _ in range(5):
        request = {
            "observation/state": np.zeros(robot.vector_size, np.float32),  # positions, velocities, efforts
            "prompt": "stack the cubes",
        }
        for camera in server["cameras"]:
            request[f"observation/images/{camera}"] = rng.integers(0, 256, (224, 224, 3), np.uint8)
        reply = client.infer(request)
        estimate = client.estimate  # the client filters what the server says of single moments
        print(f"actions {reply['actions'].shape}, progress {reply['progress']}, filtered {estimate.progress}")
