"""Serving the policy to others: the wire format of openpi's server and client."""
