"""Names of the model's cameras. Alone in a module, so that a robot profile can be read without loading JAX."""

IMAGE_KEYS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # in the model's order
