"""Tasks: a data set, a prompt and a metric each."""
