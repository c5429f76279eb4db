"""How a score is taken from the Thinker: directly from its hidden state, or from the text that it generates."""
