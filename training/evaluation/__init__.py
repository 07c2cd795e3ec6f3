"""How good estimates of progress are: predictions of recorded episodes, figures with their uncertainty, a page."""
