"""What differs between robots: profiles, messages to frames, layouts and curves."""
