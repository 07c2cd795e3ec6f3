"""Between the robot's units and the model's: pictures, states, actions, statistics and prompts."""
