"""tokens -> tokens: the language model and what connects it to the eye."""
