"""From what a model said to what it means: a letter, a normalised word, a box."""
