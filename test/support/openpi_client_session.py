"""Run by ``test_serving_openpi.py`` in an environment of openpi's client: its classes against our server.

    python openpi_client_session.py PORT STEPS HORIZON [API_KEY]

Prints one JSON object. It imports nothing of this package.
"""

import json
import sys

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def main():
    port, steps, horizon = map(int, sys.argv[1:4])
    key = sys.argv[4] if len(sys.argv) > 4 else None
    policy = WebsocketClientPolicy("127.0.0.1", port, api_key=key)
    broker = ActionChunkBroker(policy, horizon)
    rng = np.random.default_rng(0)
    cameras = ("left_color", "right_color", "head_camera")
    images = {f"observation/images/{key}": rng.integers(0, 256, (28, 28, 3), np.uint8) for key in cameras}
    rows, progress = [], []
    for step in range(steps):
        state = np.full(48, step / steps, np.float32)
        result = broker.infer({"observation/state": state, **images, "prompt": "stack the cubes"})
        assert result["actions"].shape == (16,), result["actions"].shape
        assert type(result["progress"]) is float, type(result["progress"])
        assert type(result["progress_lower"]) is float
        rows.append(float(result["actions"][0]))
        progress.append(result["progress"])
    try:
        policy.infer({"observation/state": np.zeros(3), **images, "prompt": "x"})
        error = ""
    except RuntimeError as raised:
        error = str(raised)
    found = {"metadata": policy.get_server_metadata(), "rows": rows, "progress": progress, "error": error}
    print(json.dumps(found | {"numpy": np.__version__}))


if __name__ == "__main__":
    main()
