"""Training of the temporal head: streams of answers, how they are played, the network, and what is calibrated."""
