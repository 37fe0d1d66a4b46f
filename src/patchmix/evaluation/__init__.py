"""How good frozen features are: kNN, few labels, and what can be said without labels."""
