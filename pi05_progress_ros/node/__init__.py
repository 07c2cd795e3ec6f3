"""The parts of the policy node: inputs, inference, outputs, parameters and diagnostics."""
