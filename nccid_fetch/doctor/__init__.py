"""Whether tonight's run will work: looked at before, and nothing changed by it."""
