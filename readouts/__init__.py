"""How a score is taken from the Thinker: directly out of its hidden state, or as the text that it writes."""
