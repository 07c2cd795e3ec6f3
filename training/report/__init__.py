"""Pages about data sets: what is worth a look, charts, and one self-contained HTML file."""
